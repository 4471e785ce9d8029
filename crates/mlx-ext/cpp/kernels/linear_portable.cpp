// linear() for any processor.
#include "vector_portable.h"
// The kernels are written in terms of the vector type above.
#include "dense_kernel.h"
#include "row_kernel.h"

namespace kr {

const TileKernels portable_tile_kernels = tile_kernels_of<PortableVector>();

}  // namespace kr
