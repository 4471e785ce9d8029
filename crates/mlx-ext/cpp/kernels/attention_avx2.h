// Eight floats for attention in AVX2's registers. Included by the units for x86-64, see attention_vectors.h.
#pragma once

// gcc 12's own header reads variables that it leaves undefined on purpose.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "attention_kernels.h"

namespace kr {
namespace {

struct Half {
  uint16_t bits;
};

using Vec = __m256;

inline Vec broadcast(float value) { return _mm256_set1_ps(value); }
inline Vec load(const float* from) { return _mm256_loadu_ps(from); }
inline Vec load(const Half* from) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
inline void store(float* to, Vec value) { _mm256_storeu_ps(to, value); }

// Saturates: an infinity would turn the sums of other queries, who give its key no weight, into NaN. The operands'
// order lets a NaN pass.
inline void store(Half* to, Vec value) {
  Vec bounded = _mm256_max_ps(broadcast(-65504.0f), _mm256_min_ps(broadcast(65504.0f), value));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(bounded, _MM_FROUND_TO_NEAREST_INT));
}

inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec divide(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// b where either is NaN.
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec round_to_even(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// a * 2^exponent for a whole exponent, where the result is a normal number.
inline Vec times_power_of_two(Vec a, Vec exponent) {
  __m256i shifted = _mm256_slli_epi32(_mm256_cvtps_epi32(exponent), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), shifted));
}

inline Vec zero_where_less(Vec value, Vec a, Vec b) { return _mm256_andnot_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ), value); }

inline float first_lane(Vec a) { return _mm256_cvtss_f32(a); }

inline float reduce_add(Vec a) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float reduce_max(Vec a) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace
}  // namespace kr
