// The threads that compute, made once.
#pragma once

#include <memory>
#include <type_traits>

namespace kr {

class Pool {
 public:
  // One thread a core (or KR_THREADS, if that is set), the calling one included.
  static Pool& shared();

  int threads() const;

  // Calls task(i) once for every i in [0, count), on whichever threads are free, and returns when all have returned.
  // One caller at a time; tasks must not call run.
  template <class Task>
  void run(int count, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    run_erased(count, [](void* state, int i) { (*static_cast<Plain*>(state))(i); }, std::addressof(task));
  }

 private:
  Pool();
  ~Pool() = delete;
  void run_erased(int count, void (*task)(void*, int), void* state);

  struct State;
  State* const state_;
};

}  // namespace kr
