// Layers with a state with Advanced SIMD of 64-bit Arm.
#include "vector_neon.h"
// The kernels are written in terms of the vector type above.
#include "recurrent_kernel.h"

namespace kr {

const RecurrentKernels neon_recurrent_kernels = recurrent_kernels_of<Neon>();

}  // namespace kr
