// Vectors of an output's packed weights, whose 16-bit words then hold whole weights at the same places. Widths that do not
// divide 16 are spread out for that, as Chunk says.
#pragma once

#include "chunk.h"
#include "vector_avx2.h"

namespace kr {
namespace {

// Bytes of an output's weights that become a vector of 32.
template <int bits>
constexpr int spread_bytes = bits == 2 ? 16 : bits == 3 || bits == 6 ? 24 : bits == 5 ? 20 : 32;

// By how many bits higher the values of odd 32-bit lanes lie than those of even ones: their sums are shifted back at the end.
template <int bits>
constexpr int odd_lanes_up = bits == 3 || bits == 6 ? 4 : 0;

// The bits of `mask`, the same of every 16, where those values lie.
template <int bits>
KR_INLINE __m256i spread_mask(uint32_t mask) {
  const uint32_t twice = mask << 16 | mask;
  return _mm256_set1_epi64x(static_cast<int64_t>(uint64_t{twice << odd_lanes_up<bits>} << 32 | twice));
}

// Reads nothing else.
template <int bits>
KR_INLINE __m256i load_spread(const uint8_t* p) {
  if constexpr (spread_bytes<bits> == 32) return Avx2::load_bits(p);
  const auto half = [](const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
  if constexpr (bits == 2) return _mm256_cvtepu8_epi16(half(p));
  // Two chunks, the second at the end of what is loaded with it.
  constexpr int second = spread_bytes<bits> - 16;
  static constexpr auto order = [] {
    std::array<int8_t, 32> from{};
    for (int i = 0; i < 16; i++) {
      from[i] = Chunk<bits>::spread[i];
      from[16 + i] = static_cast<int8_t>(Chunk<bits>::spread[i] + Chunk<bits>::bytes - second);
    }
    return from;
  }();
  const __m256i chunks = _mm256_inserti128_si256(_mm256_castsi128_si256(half(p)), half(p + second), 1);
  const __m256i words = _mm256_shuffle_epi8(chunks, Avx2::load_bits(order.data()));
  if constexpr (bits == 5) return _mm256_srlv_epi32(words, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
  return words;
}

}  // namespace
}  // namespace kr
