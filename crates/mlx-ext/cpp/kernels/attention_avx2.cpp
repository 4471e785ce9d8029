// Attention for x86-64 with AVX2, FMA and F16C.
#include "attention_avx2.h"
#include "attention_narrow.h"

#include "attention_task.h"

namespace kr {

const AttentionKernels attention_kernels_avx2 = {append, attend, attend_partly, finish};

}  // namespace kr
