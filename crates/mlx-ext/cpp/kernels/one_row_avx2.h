// What a vector of packed weights gives with one row of activations, with AVX2.
#pragma once

#include "floats.h"
#include "vector_avx2.h"

namespace kr {
namespace {

// Activations are in the order of Form::one_row, and of Form::spread_row for 3 and 6 bits.
struct OneRowAvx2 {
  template <int bits>
  KR_INLINE const int16_t* load(const int16_t* x) {
    return x;
  }

  // Sums of products of one vector. Of 3 and 4 bits: four lanes for the first 32 inputs, four for the others.
  template <class Chunk>
  KR_INLINE __m256i sums(__m256i weights, const int16_t* x) {
    constexpr int bits = Chunk::bits;
    const __m256i high = _mm256_srli_epi16(weights, 8);
    const auto product = [&](__m256i some, uint32_t mask, int place) {
      return _mm256_madd_epi16(_mm256_and_si256(some, Avx2::splat_bits(mask)), Avx2::load_bits(x + 16 * place));
    };
    if constexpr (bits == 8) {
      return _mm256_add_epi32(product(weights, 0x00ff00ff, 0), _mm256_madd_epi16(high, Avx2::load_bits(x + 16)));
    } else if constexpr (bits == 6) {
      // The second is 64 times its value.
      return _mm256_add_epi32(product(weights, 0x003f003f, 0), _mm256_srai_epi32(product(weights, 0x0fc00fc0, 1), 6));
    } else if constexpr (bits == 3) {
      const __m256i upper = _mm256_srli_epi16(weights, 6);
      const __m256i even = _mm256_add_epi32(product(weights, 0x00070007, 0), product(upper, 0x00070007, 2));
      const __m256i odd = _mm256_add_epi32(product(weights, 0x00380038, 1), product(upper, 0x00380038, 3));
      return _mm256_add_epi32(even, _mm256_srai_epi32(odd, 3));
    } else if constexpr (Chunk::is_e2m1) {
      const __m256i nibble = Avx2::splat_bits(0x0f0f0f0f);
      const __m256i even = Avx2::looked_up(doubled_e2m1, _mm256_and_si256(weights, nibble));
      const __m256i odd = Avx2::looked_up(doubled_e2m1, _mm256_and_si256(_mm256_srli_epi16(weights, 4), nibble));
      const auto upper = [&](__m256i some, int place) {
        return _mm256_madd_epi16(_mm256_srli_epi16(some, 8), Avx2::load_bits(x + 16 * place));
      };
      const __m256i first = _mm256_add_epi32(product(even, 0x00ff00ff, 0), upper(even, 2));
      return _mm256_add_epi32(first, _mm256_add_epi32(product(odd, 0x00ff00ff, 1), upper(odd, 3)));
    } else {
      const __m256i even = _mm256_add_epi32(product(weights, 0x000f000f, 0), product(high, 0x000f000f, 2));
      // 16 times their value, which saves two shifts.
      const __m256i odd = _mm256_add_epi32(product(weights, 0x00f000f0, 1), product(high, 0x00f000f0, 3));
      return _mm256_add_epi32(even, _mm256_srai_epi32(odd, 4));
    }
  }
};

}  // namespace
}  // namespace kr
