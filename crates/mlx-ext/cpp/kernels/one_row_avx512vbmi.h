// What packed weights give with one row of activations, with AVX-512, VNNI and VBMI. A vector holds 32 bytes of two
// outputs: that halves the instructions, without following more rows of weights than the caches do.
#pragma once

#include "floats.h"
#include "one_row_kernel.h"
#include "vector_avx512.h"

namespace kr {
namespace {

// Weights become bytes, half of every 64 in one vector and half in another: with 4 bits the even ones and the odd ones,
// which a shift parts, else every other eight of them. An eight's bits, or those of two if they fit, are first brought to the
// same 64-bit lane, and then one instruction extracts eight of them.
struct OneRowAvx512Vbmi {
  template <int bits>
  static constexpr int bytes = bits == 8 ? 32 : 8 * bits;

  static constexpr Form form(int bits) {
    return bits == 8 ? Form::one_row : bits == 4 ? Form::split_row : Form::split_eights;
  }

  // For both outputs alike.
  template <int bits>
  struct X {
    __m512i vectors[bits == 8 ? 2 : 4];
  };

  template <int bits>
  KR_INLINE X<bits> load(const int16_t* x) {
    X<bits> result;
    for (auto& vector : result.vectors) {
      vector = _mm512_broadcast_i64x4(Avx2::load_bits(x));
      x += 16;
    }
    return result;
  }

  // The sums of a and of b, four lanes for the first half of the inputs and four for the second.
  template <class Chunk>
  KR_INLINE __m512i sums_of_two(const uint8_t* a, const uint8_t* b, const X<Chunk::bits>& x) {
    if constexpr (Chunk::bits == 8) {
      const __m512i both = halves(a, b);
      const __m512i even = _mm512_and_si512(both, Avx512::splat_bits(0x00ff00ff));
      return _mm512_dpwssd_epi32(_mm512_madd_epi16(even, x.vectors[0]), _mm512_srli_epi16(both, 8), x.vectors[1]);
    }
    __m512i first, second;
    if constexpr (Chunk::bits == 4) {
      const __m512i both = halves(a, b), nibble = Avx512::splat_bits(0x0f0f0f0f);
      first = _mm512_and_si512(both, nibble);
      second = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
      if constexpr (Chunk::is_e2m1) {
        first = Avx512::looked_up(doubled_e2m1, first);
        second = Avx512::looked_up(doubled_e2m1, second);
      }
    } else {
      const __m512i packed_a = load_packed<Chunk::bits>(a), packed_b = load_packed<Chunk::bits>(b);
      first = extracted<Chunk::bits, 0>(packed_a, packed_b);
      second = extracted<Chunk::bits, 1>(packed_a, packed_b);
    }
    // Weights pass for bytes with a sign and without: the activations' high bytes have one, the low ones none.
    __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), first, x.vectors[0]);
    high = _mm512_dpbusd_epi32(high, second, x.vectors[1]);
    const __m512i sum = _mm512_dpbusd_epi32(_mm512_slli_epi32(high, 8), x.vectors[2], first);
    return _mm512_dpbusd_epi32(sum, x.vectors[3], second);
  }

  template <class Chunk>
  KR_INLINE EightSums eight_sums(const uint8_t* packed, size_t stride, const X<Chunk::bits>& x) {
    __m512i sums[4];
    for (int o = 0; o < 4; o++) sums[o] = sums_of_two<Chunk>(packed + o * stride, packed + (o + 4) * stride, x);
    // As sums_of_halves, of two vectors at once.
    const auto added = [](__m512i low, __m512i high) { return _mm512_add_epi32(low, high); };
    const __m512i s01 = added(_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
    const __m512i s23 = added(_mm512_unpacklo_epi32(sums[2], sums[3]), _mm512_unpackhi_epi32(sums[2], sums[3]));
    const __m512i all = added(_mm512_unpacklo_epi64(s01, s23), _mm512_unpackhi_epi64(s01, s23));
    const __m512i sorted = _mm512_shuffle_i32x4(all, all, _MM_SHUFFLE(3, 1, 2, 0));
    return {_mm512_castsi512_si256(sorted), _mm512_extracti64x4_epi64(sorted, 1)};
  }

 private:
  // 32 bytes of a and of b.
  KR_INLINE __m512i halves(const uint8_t* a, const uint8_t* b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(Avx2::load_bits(a)), Avx2::load_bits(b), 1);
  }

  // 64 weights and nothing behind them.
  template <int bits>
  KR_INLINE __m512i load_packed(const uint8_t* p) {
    // Fewer loads of 32 bytes than of 64 lie in two cache lines.
    if constexpr (bits < 4) return _mm512_castsi256_si512(_mm256_maskz_loadu_epi64((1 << bits) - 1, p));
    return _mm512_maskz_loadu_epi64((1 << bits) - 1, p);
  }

  // Whether a 64-bit lane has room for the bits of two eights.
  template <int bits>
  static constexpr bool in_twos = 2 * bits <= 8;

  // Which bytes come to the 64-bit lanes, those of a or, from 64 on, of b: both eights of a lane, or the one of number `half`.
  template <int bits, int half>
  KR_INLINE __m512i eights(__m512i a, __m512i b) {
    static constexpr auto order = [] {
      std::array<uint8_t, 64> from{};
      for (int i = 0; i < 64; i++) {
        const int output = i / 32, lane = i / 8 % 4, byte = i % 8;
        const bool is_used = byte < (in_twos<bits> ? 2 : 1) * bits;
        from[i] = static_cast<uint8_t>(64 * output + (is_used ? (2 * lane + half) * bits + byte : 0));
      }
      return from;
    }();
    return _mm512_permutex2var_epi8(a, Avx512::load_bits(order.data()), b);
  }

  // Of every sixteen weights the first eight or the last, a's in the low half of a vector, b's in the high one.
  template <int bits, int half>
  KR_INLINE __m512i extracted(__m512i a, __m512i b) {
    static constexpr auto begins = [] {
      std::array<uint8_t, 64> begins{};
      for (int i = 0; i < 64; i++) begins[i] = static_cast<uint8_t>(((in_twos<bits> ? 8 * half : 0) + i % 8) * bits);
      return begins;
    }();
    const __m512i lanes = eights<bits, in_twos<bits> ? 0 : half>(a, b);
    constexpr uint32_t mask = (1u << bits) - 1;
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(Avx512::load_bits(begins.data()), lanes),
                            Avx512::splat_bits(mask * 0x01010101u));
  }
};

}  // namespace
}  // namespace kr
