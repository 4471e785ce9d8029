// Memory that is asked for in advance, into the cache that it still finds there when it is read.
#pragma once

#include <cstddef>

namespace kr {
namespace {

// What comes next of a matrix, `distance` bytes from what is read now.
class Ahead {
 public:
  Ahead(const void* next, size_t distance) : next_(static_cast<const char*>(next)), far_(distance > near_bytes) {}

  // Asks for some more of it.
  template <int bytes>
  KR_INLINE void fetch(Ahead& ahead) {
    for (int line = 0; line < bytes; line += 64) {
      if (ahead.far_) {
        __builtin_prefetch(ahead.next_ + line, 0, 2);
      } else {
        __builtin_prefetch(ahead.next_ + line, 0, 3);
      }
    }
    ahead.next_ += bytes;
  }

 private:
  // Beside as much again that is being read, and the activations, more would displace itself from a small L1 cache.
  static constexpr size_t near_bytes = 8 * 1024;

  const char* next_;
  bool far_;
};

}  // namespace
}  // namespace kr
