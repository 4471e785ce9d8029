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

// Of 3, 5 and 6 bits: what brings the first value of each 32-bit lane to the lowest bits.
template <int bits>
KR_INLINE __m256i first_places() {
  if constexpr (bits == 5) return _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  return _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4);
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
  return _mm256_srlv_epi32(words, first_places<bits>());
}

}  // namespace
}  // namespace kr
