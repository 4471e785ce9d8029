// Layers with a state with AVX-512.
#include "vector_avx512.h"
// The kernels are written in terms of the vector type above.
#include "recurrent_kernel.h"

namespace kr {

const RecurrentKernels avx512_recurrent_kernels = recurrent_kernels_of<Avx512>();

}  // namespace kr
