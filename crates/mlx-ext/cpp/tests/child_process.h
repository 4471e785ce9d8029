// Digests of results, and computing them in processes with other numbers of threads or other instructions: both are
// chosen once a process.
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

// What compute() returns in a process with this environment variable; 0 and a message if that process fails. Only for a
// process that has not started threads yet: a child has none but the one that forked.
template <class Compute>
uint64_t digest_with(const char* variable, const char* value, const Compute& compute) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child < 0) std::abort();
  if (child == 0) {
    setenv(variable, value, 1);
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
  std::fprintf(stderr, "FAILED: the process with %s=%s does not end well\n", variable, value);
  return 0;
}

// How many of the other instruction sets give another digest than the first. Those that the processor does not have are
// the same as the best it has.
template <class Compute>
int differing_instruction_sets(const Compute& compute) {
  const uint64_t portable = digest_with("KR_ISA", "portable", compute);
  int differing = portable == 0;
#if defined(__x86_64__)
  const char* const others[] = {"avx2", "avx512", "avx512vbmi"};
#elif defined(__aarch64__)
  const char* const others[] = {"neon"};
#else
  const char* const others[] = {"portable"};
#endif
  for (const char* isa : others) {
    if (digest_with("KR_ISA", isa, compute) == portable) continue;
    std::fprintf(stderr, "FAILED: %s gives other results than portable\n", isa);
    ++differing;
  }
  return differing;
}
