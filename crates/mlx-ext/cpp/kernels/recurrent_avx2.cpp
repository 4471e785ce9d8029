// Layers with a state with AVX2, FMA and F16C.
#include "vector_avx2.h"
// The kernels are written in terms of the vector type above.
#include "recurrent_kernel.h"

namespace kr {

const RecurrentKernels avx2_recurrent_kernels = recurrent_kernels_of<Avx2>();

}  // namespace kr
