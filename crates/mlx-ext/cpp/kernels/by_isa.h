// Which kernels this processor runs.
#pragma once

#include "cpu.h"

namespace kr {

// One kind of kernels for each instruction set of this build. Leaving one out does not compile: an instruction set without
// kernels of its own names those of the next lesser one, and never falls back to the slow portable ones by accident.
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
