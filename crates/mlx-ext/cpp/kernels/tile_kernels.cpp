#include "tile_kernels.h"

#include "cpu.h"

namespace kr {

const TileKernels& tile_kernels() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx2:
      return avx2_tile_kernels;
    case Isa::avx512:
      return avx512_tile_kernels;
    case Isa::avx512vbmi: {
      static const TileKernels kernels = [] {
        TileKernels kernels = avx512_tile_kernels;
        kernels.one_row = &avx512vbmi_one_row;
        return kernels;
      }();
      return kernels;
    }
#elif defined(__aarch64__)
    case Isa::neon:
      return neon_tile_kernels;
#endif
    default:
      return portable_tile_kernels;
  }
}

}  // namespace kr
