// How packed weights lie in what is unpacked at a time of an output's row, for every number of bits.
//
// MLX packs all of them as one stream of bits, the first weight in the lowest. Products want them in 16 bits each, as
// pairs in 32. A pair is a weight and the weight half a block after it. Each half of a block is a whole number of bytes, so
// one shift extracts both. Where a half is longer than 16 bits, its bytes are first spread out to words
// that overlap; that is one shuffle of bytes, and the only thing that odd widths cost.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

namespace kr {
namespace {

// The number of weights from one to the other of its pair, on which alone the order of activations depends.
constexpr int half_block(int bits) { return bits == 8 ? 2 : bits == 4 || bits == 6 ? 4 : 8; }

// Where a pair is found: in which 32 bits of the chunk, spread out, and how far up in each half of them.
struct PairPlace {
  int word;
  int shift;
};

template <int width>
struct Chunk {
  static constexpr int bits = width;
  static constexpr bool is_e2m1 = false;
  static constexpr int half_values = half_block(bits);
  static constexpr int half_bytes = half_values * bits / 8;
  // Words of a block: overlapping ones for every two neighbouring bytes of a half.
  static constexpr int block_words = half_bytes - 1;
  static constexpr int values = bits > 4 ? 16 : 32;
  static constexpr int bytes = values * bits / 8;
  static constexpr int words = values / (2 * half_values) * block_words;
  static_assert(words <= 4 && bytes <= 16);

  // Where the pair is that comes out at a place.
  static constexpr PairPlace pair(int place) {
    const int block = place / half_values, value = place % half_values;
    const int byte = value * bits / 8;
    const int word = byte < block_words ? byte : block_words - 1;
    return {block * block_words + word, value * bits - 8 * word};
  }

  // Whether a word is 32 bits of the chunk as it is.
  static constexpr bool is_spread_out = block_words == 1;

  // For each byte of the words, which of the chunk's it is.
  static constexpr std::array<int8_t, 16> spread = [] {
    std::array<int8_t, 16> from{};
    for (int word = 0; word < words; word++) {
      const int first = word / block_words * 2 * half_bytes + word % block_words;
      for (int i = 0; i < 4; i++) from[4 * word + i] = static_cast<int8_t>(first + i / 2 * half_bytes + i % 2);
    }
    return from;
  }();
};

// The same of floats of 4 bits, which a table turns into integers.
struct E2m1Chunk : Chunk<4> {
  static constexpr bool is_e2m1 = true;
};

// 16 bytes as they are.
using PlainChunk = Chunk<8>;

// Calls take(a constant of them) for the bits of a matrix.
template <class Take>
static inline void with_bits(int bits, const Take& take) {
  switch (bits) {
    case 2:
      return take(std::integral_constant<int, 2>{});
    case 3:
      return take(std::integral_constant<int, 3>{});
    case 4:
      return take(std::integral_constant<int, 4>{});
    case 5:
      return take(std::integral_constant<int, 5>{});
    case 6:
      return take(std::integral_constant<int, 6>{});
    default:
      return take(std::integral_constant<int, 8>{});
  }
}

}  // namespace
}  // namespace kr
