// linear() with AVX2, FMA and F16C.
#include "vector_avx2.h"
// The kernels are written in terms of the vector type above.
#include "dense_kernel.h"
#include "one_row_avx2.h"
#include "row_kernel.h"

namespace kr {

const OneRow avx2_one_row = one_row_of<OneRowAvx2, 16>();
const TileKernels avx2_tile_kernels = tile_kernels_of<Avx2>(&avx2_one_row);

}  // namespace kr
