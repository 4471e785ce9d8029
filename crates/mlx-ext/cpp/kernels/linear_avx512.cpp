// linear() with AVX-512 and VNNI.
#include "vector_avx512.h"
// The kernels are written in terms of the vector type above.
#include "dense_kernel.h"
#include "one_row_avx512.h"
#include "row_kernel.h"

namespace kr {

const OneRow avx512_one_row = one_row_of<OneRowAvx512, 32>();
const TileKernels avx512_tile_kernels = tile_kernels_of<Avx512, Avx2>(&avx512_one_row);

}  // namespace kr
