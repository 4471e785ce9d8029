#include "tile_kernels.h"

#include "by_isa.h"

namespace kr {

#if defined(__x86_64__)
namespace {

// A single row meets floats of 16 bits in halves of a tile, with vectors of 256 bits. Where rows of weights are a multiple of
// 4 KB apart, one set of an L1 cache holds the lines of eight of them, and not of sixteen; elsewhere that is a tenth faster, too.
void dense_tile_in_halves(const DenseMatrix& matrix, int first_output, const float* x, int first_row, int rows,
                          float* tile, const TileScratch& scratch, bool last) {
  if (rows > 1 || matrix.type == Float::f32) {
    return avx512_tile_kernels.dense(matrix, first_output, x, first_row, rows, tile, scratch, last);
  }
  const int half = avx2_tile_kernels.tile_outputs;
  avx2_tile_kernels.dense(matrix, first_output, x, first_row, 1, tile, scratch, false);
  avx2_tile_kernels.dense(matrix, first_output + half, x, first_row, 1, tile + half, scratch, last);
}

TileKernels wide_kernels(const OneRow& one_row) {
  TileKernels kernels = avx512_tile_kernels;
  kernels.dense = &dense_tile_in_halves;
  kernels.one_row = &one_row;
  return kernels;
}

}  // namespace
#endif

const TileKernels& tile_kernels() {
#if defined(__x86_64__)
  static const TileKernels avx512 = wide_kernels(avx512_one_row), avx512vbmi = wide_kernels(avx512vbmi_one_row);
  return ByIsa<TileKernels>{portable_tile_kernels, avx2_tile_kernels, avx512, avx512vbmi}.here();
#elif defined(__aarch64__)
  return ByIsa<TileKernels>{portable_tile_kernels, neon_tile_kernels}.here();
#else
  return portable_tile_kernels;
#endif
}

}  // namespace kr
