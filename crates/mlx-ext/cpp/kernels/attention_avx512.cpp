// Attention for x86-64 with AVX-512: as with AVX2, but where most of the work is, in registers of sixteen floats.
//
// Twice as fast where a CPU multiplies two of them a cycle (Zen 5, Intel's servers), and some 8 % slower on Zen 4, which
// multiplies as many floats a cycle either way.
#include "attention_avx2.h"
#include "attention_vectors.h"

namespace kr {
namespace {

inline __m512 sub(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
inline __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
// b where either is NaN.
inline __m512 maximum(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
inline __m512 round_to_even(__m512 a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// a * 2^exponent for a whole exponent, where the result is a normal number.
inline __m512 times_power_of_two(__m512 a, __m512 exponent) {
  __m512i shifted = _mm512_slli_epi32(_mm512_cvtps_epi32(exponent), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), shifted));
}

inline __m512 zero_where_less(__m512 value, __m512 a, __m512 b) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), value);
}

struct Sixteen {
  using Vector = __m512;
  static constexpr int lanes = 16;

  static Vector broadcast(float value) { return _mm512_set1_ps(value); }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector load(const Half* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
};

// The sums of twelve rows and two strips take 24 of the 32 registers.
using Widest = Sixteen;
constexpr int register_rows = 12;
constexpr int rows_with_two_strips = 12;

}  // namespace
}  // namespace kr

#include "attention_task.h"

namespace kr {

const AttentionKernels attention_kernels_avx512 = {append, attend, attend_partly, finish};

}  // namespace kr
