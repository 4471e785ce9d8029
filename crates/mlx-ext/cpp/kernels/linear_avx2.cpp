// linear() with AVX2, FMA and F16C.
#include "vector_avx2.h"
// The kernels are written in terms of the vector type above.
#include "dense_kernel.h"
#include "one_row_avx2.h"
#include "one_row_kernel.h"
#include "row_kernel.h"

namespace kr {

const TileKernels avx2_tile_kernels = tile_kernels_of<Avx2>(one_row_tile<OneRowAvx2, 16>);

}  // namespace kr
