// What a vector of packed weights gives with one row of activations, with AVX2.
#pragma once

#include "floats.h"
#include "one_row_kernel.h"
#include "one_row_spread.h"

namespace kr {
namespace {

struct OneRowAvx2 {
  template <int bits>
  static constexpr int bytes = spread_bytes<bits>;

  static constexpr Form form(int bits) { return bits == 4 || bits == 8 ? Form::one_row : Form::spread_row; }

  template <int bits>
  KR_INLINE const int16_t* load(const int16_t* x) {
    return x;
  }

  template <class Chunk>
  KR_INLINE EightSums eight_sums(const uint8_t* packed, size_t stride, const int16_t* x) {
    return sums_one_by_one<OneRowAvx2, Chunk, odd_lanes_up<Chunk::bits>>(packed, stride, x);
  }

  template <int bits>
  KR_INLINE __m256i load_weights(const uint8_t* p) {
    return load_spread<bits>(p);
  }

  // Sums of products of one vector, four lanes for the first half of its inputs and four for the second.
  template <class Chunk>
  KR_INLINE __m256i sums(__m256i weights, const int16_t* x) {
    constexpr int bits = Chunk::bits;
    const __m256i high = _mm256_srli_epi16(weights, 8);
    const auto product = [&](__m256i some, uint32_t mask, int place) {
      return _mm256_madd_epi16(_mm256_and_si256(some, Avx2::splat_bits(mask)), Avx2::load_bits(x + 16 * place));
    };
    // Of values that begin `first_bit` from a word's first one.
    [[maybe_unused]] const auto spread = [&](__m256i some, int first_bit, int place) {
      const __m256i mask = spread_mask<bits>(((1u << bits) - 1) << first_bit);
      return _mm256_madd_epi16(_mm256_and_si256(some, mask), Avx2::load_bits(x + 16 * place));
    };
    if constexpr (bits == 8) {
      return _mm256_add_epi32(product(weights, 0x00ff00ff, 0), _mm256_madd_epi16(high, Avx2::load_bits(x + 16)));
    } else if constexpr (bits > 4) {
      return _mm256_add_epi32(spread(weights, 0, 0), spread(_mm256_srli_epi16(weights, bits), 0, 1));
    } else if constexpr (bits == 2) {
      const auto place = [&](int at) { return product(weights, 0x00030003u << 2 * at, at); };
      // Each of the rest is 4 times, 16 times, 64 times its value.
      const __m256i later = _mm256_add_epi32(place(2), _mm256_srai_epi32(place(3), 2));
      return _mm256_add_epi32(place(0), _mm256_srai_epi32(_mm256_add_epi32(place(1), _mm256_srai_epi32(later, 2)), 2));
    } else if constexpr (bits == 3) {
      const __m256i upper = _mm256_srli_epi16(weights, 6);
      const __m256i even = _mm256_add_epi32(spread(weights, 0, 0), spread(upper, 0, 2));
      // 8 times their value, which saves two shifts.
      const __m256i odd = _mm256_add_epi32(spread(weights, 3, 1), spread(upper, 3, 3));
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
