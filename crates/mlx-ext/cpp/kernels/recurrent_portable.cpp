// Layers with a state for any processor.
#include "vector_portable.h"
// The kernels are written in terms of the vector type above.
#include "recurrent_kernel.h"

namespace kr {

const RecurrentKernels portable_recurrent_kernels = recurrent_kernels_of<PortableVector>();

}  // namespace kr
