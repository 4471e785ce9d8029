// Which kernels this processor runs.
#pragma once

#include "cpu.h"

namespace kr {

// Kernels of one kind, of every instruction set that this build has. None can be left out: one without kernels of its own
// names those of the next lesser one. (A set that is missed would run the portable ones, correct and slow.)
template <class Kernels>
struct ByIsa {
  const Kernels& portable;
#if defined(__x86_64__)
  const Kernels& avx2;
  const Kernels& avx512;
  const Kernels& avx512vbmi;
#elif defined(__aarch64__)
  const Kernels& neon;
#endif

  const Kernels& here() const {
    switch (isa()) {
#if defined(__x86_64__)
      case Isa::avx2:
        return avx2;
      case Isa::avx512:
        return avx512;
      case Isa::avx512vbmi:
        return avx512vbmi;
#elif defined(__aarch64__)
      case Isa::neon:
        return neon;
#endif
      default:
        return portable;
    }
  }
};

}  // namespace kr
