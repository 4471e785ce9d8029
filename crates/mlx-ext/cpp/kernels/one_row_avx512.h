// What a vector of packed weights gives with one row of activations, with VNNI. Its vectors are AVX2's: sixteen outputs
// at a time, which longer ones would take, are more rows than the caches follow.
#pragma once

#include "floats.h"
#include "one_row_kernel.h"

namespace kr {
namespace {

// Activations are in the order of Form::split_row for 4 bits, of Form::one_row for 8.
struct OneRowAvx512 {
  template <int bits>
  static constexpr int bytes = 32;

  // Other widths are faster in tiles, whose vectors are longer.
  static constexpr Form form(int bits) {
    return bits == 8 ? Form::one_row : bits == 4 ? Form::split_row : Form::pairs;
  }

  template <int bits>
  struct X {
    __m256i vectors[bits == 8 ? 2 : 4];
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
    return sums_one_by_one<OneRowAvx512, Chunk, 0>(packed, stride, x);
  }

  template <int bits>
  KR_INLINE __m256i load_weights(const uint8_t* p) {
    return Avx2::load_bits(p);
  }

  // As OneRowAvx2::sums.
  template <class Chunk>
  KR_INLINE __m256i sums(__m256i weights, const X<Chunk::bits>& x) {
    constexpr int bits = Chunk::bits;
    if constexpr (bits == 8) {
      const __m256i even = _mm256_and_si256(weights, Avx2::splat_bits(0x00ff00ff));
      return _mm256_dpwssd_epi32(_mm256_madd_epi16(even, x.vectors[0]), _mm256_srli_epi16(weights, 8), x.vectors[1]);
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
