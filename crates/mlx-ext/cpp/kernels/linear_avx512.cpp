// linear() with AVX-512 and VNNI.
#include "vector_avx512.h"
// The kernels are written in terms of the vector type above.
#include "dense_kernel.h"
#include "one_row_avx512.h"
#include "one_row_kernel.h"
#include "row_kernel.h"

namespace kr {

const TileKernels avx512_tile_kernels = tile_kernels_of<Avx512, Avx2>(one_row_tile<OneRowAvx512, 32>, Form::split_row);

}  // namespace kr
