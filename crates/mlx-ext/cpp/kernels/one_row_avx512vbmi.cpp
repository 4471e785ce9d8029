// One row's products with AVX-512, VNNI and VBMI.
#include "vector_avx512.h"
// The kernels are written in terms of the vector type above.
#include "one_row_avx512vbmi.h"

namespace kr {

const OneRow avx512vbmi_one_row = one_row_of<OneRowAvx512Vbmi, 32>();

}  // namespace kr
