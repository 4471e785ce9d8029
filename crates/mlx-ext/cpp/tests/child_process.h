// Digests of results, and computing them in processes with other numbers of threads: the pool is made once a process.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Of floats, bit for bit.
class Digest {
 public:
  void add(const float* values, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, values + i, sizeof bits);
      value_ = (value_ ^ bits) * 1099511628211u;
    }
  }

  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 14695981039346656037u;
};

// What compute() returns in a process with so many threads; 0 and a message if that process fails. Only for a process
// that has not started threads yet: a child has none but the one that forked.
template <class Compute>
uint64_t digest_with_threads(const char* threads, const Compute& compute) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child < 0) std::abort();
  if (child == 0) {
    setenv("KR_THREADS", threads, 1);
    const uint64_t digest = compute();
    _exit(write(ends[1], &digest, sizeof digest) == sizeof digest ? 0 : 1);
  }
  close(ends[1]);
  uint64_t digest = 0;
  const bool complete = read(ends[0], &digest, sizeof digest) == sizeof digest;
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (complete && status == 0) return digest;
  std::fprintf(stderr, "FAILED: the process with KR_THREADS=%s does not end well\n", threads);
  return 0;
}
