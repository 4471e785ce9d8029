#include "tile_kernels.h"

#include "by_isa.h"

namespace kr {

#if defined(__x86_64__)
namespace {

const TileKernels& with_vbmi() {
  static const TileKernels kernels = [] {
    TileKernels kernels = avx512_tile_kernels;
    kernels.one_row = &avx512vbmi_one_row;
    return kernels;
  }();
  return kernels;
}

}  // namespace
#endif

const TileKernels& tile_kernels() {
#if defined(__x86_64__)
  return ByIsa<TileKernels>{portable_tile_kernels, avx2_tile_kernels, avx512_tile_kernels, with_vbmi()}.here();
#elif defined(__aarch64__)
  return ByIsa<TileKernels>{portable_tile_kernels, neon_tile_kernels}.here();
#else
  return portable_tile_kernels;
#endif
}

}  // namespace kr
