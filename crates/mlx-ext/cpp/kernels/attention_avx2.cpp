// Attention for x86-64 with AVX2, FMA and F16C.
#include "attention_avx2.h"
#include "attention_vectors.h"

namespace kr {
namespace {

// Nothing is wider. The sums of six rows and one strip, or of three and two, leave some of the sixteen registers free.
using Widest = Eight;
constexpr int register_rows = 6;
constexpr int rows_with_two_strips = 3;

}  // namespace
}  // namespace kr

#include "attention_task.h"

namespace kr {

const AttentionKernels attention_kernels_avx2 = {append, attend, attend_partly, finish};

}  // namespace kr
