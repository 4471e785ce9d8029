#include "cpu.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace kr {

namespace {

bool supported(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return supported(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    case Isa::avx512vbmi:
      return supported(Isa::avx512) && __builtin_cpu_supports("avx512vbmi");
#elif defined(__aarch64__)
    case Isa::neon:
      return true;
#endif
    default:
      return false;
  }
}

constexpr Isa best_first[] = {Isa::avx512vbmi, Isa::avx512, Isa::avx2, Isa::neon, Isa::portable};

Isa best() {
  for (Isa isa : best_first) {
    if (supported(isa)) return isa;
  }
  return Isa::portable;
}

Isa choose() {
  const char* wanted = std::getenv("KR_ISA");
  if (wanted == nullptr) return best();
  for (Isa isa : best_first) {
    if (std::strcmp(wanted, isa_name(isa)) == 0 && supported(isa)) return isa;
  }
  std::fprintf(stderr, "KR_ISA=%s is unknown, or not what this CPU has; taking %s\n", wanted, isa_name(best()));
  return best();
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512vbmi:
      return "avx512vbmi";
    case Isa::neon:
      return "neon";
    default:
      return "portable";
  }
}

int available_cores() {
#if defined(__linux__)
  // Not hardware_concurrency: a container's or taskset's share counts, not the machine.
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) {
    const int count = CPU_COUNT(&cores);
    if (count > 0) return count;
  }
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

}  // namespace kr

extern "C" const char* mlx_ext_instructions() { return kr::isa_name(kr::isa()); }
