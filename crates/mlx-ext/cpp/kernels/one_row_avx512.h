// What a vector of packed weights gives with one row of activations, with VNNI. Its vectors are AVX2's: sixteen outputs
// at a time, which longer ones would take, are more rows than the caches follow.
#pragma once

#include "floats.h"
#include "one_row_kernel.h"
#include "one_row_spread.h"

namespace kr {
namespace {

struct OneRowAvx512 {
  template <int bits>
  static constexpr int bytes = spread_bytes<bits>;

  static constexpr Form form(int bits) {
    return bits == 8 ? Form::one_row : bits == 4 ? Form::split_row : Form::spread_row;
  }

  template <int bits>
  struct X {
    __m256i vectors[bits > 4 ? 2 : 4];
  };

  template <int bits>
  KR_INLINE X<bits> load(const int16_t* x) {
    X<bits> result;
    for (auto& vector : result.vectors) {
      vector = Avx2::load_bits(x);
      x += 16;
    }
    return result;
  }

  template <class Chunk>
  KR_INLINE EightSums eight_sums(const uint8_t* packed, size_t stride, const X<Chunk::bits>& x) {
    return sums_one_by_one<OneRowAvx512, Chunk>(packed, stride, x);
  }

  template <int bits>
  KR_INLINE __m256i load_weights(const uint8_t* p) {
    return load_spread<bits>(p);
  }

  // As OneRowAvx2::sums.
  template <class Chunk>
  KR_INLINE __m256i sums(__m256i weights, const X<Chunk::bits>& x) {
    constexpr int bits = Chunk::bits;
    if constexpr (bits == 8) {
      const __m256i even = _mm256_and_si256(weights, Avx2::splat_bits(0x00ff00ff));
      return _mm256_dpwssd_epi32(_mm256_madd_epi16(even, x.vectors[0]), _mm256_srli_epi16(weights, 8), x.vectors[1]);
    } else if constexpr (bits == 2) {
      const __m256i mask = Avx2::splat_bits(0x00030003);
      __m256i sum = _mm256_madd_epi16(_mm256_and_si256(weights, mask), x.vectors[0]);
      sum = _mm256_dpwssd_epi32(sum, _mm256_and_si256(_mm256_srli_epi16(weights, 2), mask), x.vectors[1]);
      sum = _mm256_dpwssd_epi32(sum, _mm256_and_si256(_mm256_srli_epi16(weights, 4), mask), x.vectors[2]);
      return _mm256_dpwssd_epi32(sum, _mm256_srli_epi16(weights, 6), x.vectors[3]);
    } else if constexpr (bits > 4) {
      const __m256i mask = Avx2::splat_bits(((1u << bits) - 1) * 0x00010001u);
      const __m256i first = _mm256_and_si256(weights, mask);
      const __m256i second = _mm256_and_si256(_mm256_srli_epi16(weights, bits), mask);
      return _mm256_dpwssd_epi32(_mm256_madd_epi16(first, x.vectors[0]), second, x.vectors[1]);
    } else if constexpr (bits == 3) {
      const auto some = [](__m256i from, uint32_t mask) { return _mm256_and_si256(from, Avx2::splat_bits(mask)); };
      const __m256i upper = _mm256_srli_epi16(weights, 6);
      __m256i even = _mm256_madd_epi16(some(weights, 0x00070007), x.vectors[0]);
      even = _mm256_dpwssd_epi32(even, some(upper, 0x00070007), x.vectors[2]);
      // 8 times their value, which saves two shifts.
      __m256i odd = _mm256_madd_epi16(some(weights, 0x00380038), x.vectors[1]);
      odd = _mm256_dpwssd_epi32(odd, some(upper, 0x00380038), x.vectors[3]);
      return _mm256_add_epi32(even, _mm256_srai_epi32(odd, 3));
    } else {
      const __m256i mask = Avx2::splat_bits(0x0f0f0f0f);
      __m256i even = _mm256_and_si256(weights, mask);
      __m256i odd = _mm256_and_si256(_mm256_srli_epi16(weights, 4), mask);
      if constexpr (Chunk::is_e2m1) {
        even = Avx2::looked_up(doubled_e2m1, even);
        odd = Avx2::looked_up(doubled_e2m1, odd);
      }
      // Weights pass for bytes with a sign and without: the activations' high bytes have one, the low ones none.
      __m256i high = _mm256_dpbusd_epi32(_mm256_setzero_si256(), even, x.vectors[0]);
      high = _mm256_dpbusd_epi32(high, odd, x.vectors[1]);
      const __m256i sum = _mm256_dpbusd_epi32(_mm256_slli_epi32(high, 8), x.vectors[2], even);
      return _mm256_dpbusd_epi32(sum, x.vectors[3], odd);
    }
  }
};

}  // namespace
}  // namespace kr
