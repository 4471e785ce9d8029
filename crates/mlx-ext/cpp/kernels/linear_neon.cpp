// linear() with Advanced SIMD of 64-bit Arm.
#include "vector_neon.h"
// The kernels are written in terms of the vector type above.
#include "dense_kernel.h"
#include "row_kernel.h"

namespace kr {

const TileKernels neon_tile_kernels = tile_kernels_of<Neon>();

}  // namespace kr
