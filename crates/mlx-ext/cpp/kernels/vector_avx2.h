// AVX2 with FMA and F16C, in the terms in which the shared kernels are written.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "chunk.h"
#include "matrix.h"

#define KR_INLINE static inline __attribute__((always_inline))

namespace kr {
namespace {

struct Avx2 {
  using Floats = __m256;
  using Ints = __m256i;

  static constexpr int lanes = 8;         // 32-bit elements of a vector
  static constexpr int tile_vectors = 2;  // vectors of outputs in a tile
  static constexpr int tile_rows = 6;     // rows of an unpacked product's accumulators: 6 x 2 of 16 registers
  static constexpr int few_rows = 3;      // rows that are served at once straight from packed weights

  KR_INLINE Floats zero() { return _mm256_setzero_ps(); }
  KR_INLINE Floats splat(float x) { return _mm256_set1_ps(x); }
  KR_INLINE Floats load(const float* p) { return _mm256_loadu_ps(p); }
  KR_INLINE void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
  KR_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  KR_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  KR_INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  KR_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  KR_INLINE Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  KR_INLINE Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  KR_INLINE Floats magnitude(Floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }

  KR_INLINE Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
  KR_INLINE Ints round(Floats x) { return _mm256_cvtps_epi32(x); }  // to nearest, ties to even
  KR_INLINE Floats power_of_two(Ints n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }

  KR_INLINE Ints splat_bits(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  KR_INLINE Ints load_bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  KR_INLINE void store_bits(void* p, Ints x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  KR_INLINE Ints splat_32(const void* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return _mm256_set1_epi32(bits);
  }
  KR_INLINE Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  KR_INLINE Ints bits_and(Ints a, Ints b) { return _mm256_and_si256(a, b); }
  template <int count>
  KR_INLINE Ints shift_right_16(Ints x) {
    return _mm256_srli_epi16(x, count);
  }
  template <int count>
  KR_INLINE Ints shift_right_32(Ints x) {
    return _mm256_srli_epi32(x, count);
  }
  // The entries of a table of 16 bytes that each byte is the index of.
  KR_INLINE Ints looked_up(const uint8_t* table, Ints indices) {
    const auto entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), indices);
  }

  // The bytes of a chunk and nothing behind them.
  template <class Chunk>
  KR_INLINE __m128i load_chunk(const uint8_t* p) {
    if constexpr (Chunk::bytes == 16) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    } else if constexpr (Chunk::bytes == 12) {
      return _mm_maskload_epi32(reinterpret_cast<const int*>(p), _mm_setr_epi32(-1, -1, -1, 0));
    } else {
      const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
      if constexpr (Chunk::bytes == 8) return eight;
      static_assert(Chunk::bytes == 8 || Chunk::bytes == 10);
      uint16_t last;
      std::memcpy(&last, p + 8, sizeof last);
      return _mm_insert_epi16(eight, last, 4);
    }
  }

  // out[j] = the j-th word of the chunks at p, p + stride, ..., one row a lane.
  template <class Chunk>
  KR_INLINE void transposed(const uint8_t* p, size_t stride, Ints out[4]) {
    const auto row = [&](int i) { return load_chunk<Chunk>(p + i * stride); };
    const auto two = [&](int i) {
      const Ints rows = _mm256_inserti128_si256(_mm256_castsi128_si256(row(i)), row(i + 4), 1);
      if constexpr (Chunk::is_spread_out) return rows;
      const auto order = _mm_loadu_si128(reinterpret_cast<const __m128i*>(Chunk::spread.data()));
      return _mm256_shuffle_epi8(rows, _mm256_broadcastsi128_si256(order));
    };
    const Ints r0 = two(0), r1 = two(1), r2 = two(2), r3 = two(3);
    const Ints low01 = _mm256_unpacklo_epi32(r0, r1), high01 = _mm256_unpackhi_epi32(r0, r1);
    const Ints low23 = _mm256_unpacklo_epi32(r2, r3), high23 = _mm256_unpackhi_epi32(r2, r3);
    out[0] = _mm256_unpacklo_epi64(low01, low23);
    out[1] = _mm256_unpackhi_epi64(low01, low23);
    out[2] = _mm256_unpacklo_epi64(high01, high23);
    out[3] = _mm256_unpackhi_epi64(high01, high23);
  }

  // Floats of the low and of the high 16 bits of every lane.
  KR_INLINE void widen(Ints pairs, Float type, Floats& low, Floats& high) {
    if (type == Float::bf16) {
      low = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
      high = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
      return;
    }
    const Ints low_first = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                            0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const Ints sorted = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(pairs, low_first), 0xd8);
    low = _mm256_cvtph_ps(_mm256_castsi256_si128(sorted));
    high = _mm256_cvtph_ps(_mm256_extracti128_si256(sorted, 1));
  }
  KR_INLINE Floats as_floats(Ints x) { return _mm256_castsi256_ps(x); }

  // Both add_products below are assembly because gcc, free to choose, computes all products of a loop's turn before it
  // adds them; there are not enough registers for that, the sums end up in memory, and half the speed is gone.

  // Products of two int16 a lane.
  struct Pairs {
    using Sums = __m256i;
    static constexpr int values = 2;
    KR_INLINE Sums zero() { return _mm256_setzero_si256(); }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      Ints products;
      asm("vpmaddwd %[x], %[weights], %[products]\n\tvpaddd %[products], %[sums], %[sums]"
          : [sums] "+x"(sums), [products] "=&x"(products)
          : [weights] "x"(weights), [x] "x"(x));
      return sums;
    }
    KR_INLINE Ints total(Sums sums) { return sums; }
  };

  // Products of four bytes a lane, weights of four bits with activations. The eight products that a group of 32 adds up
  // in each 16 bits stay below 8 * 2 * 15 * 127 = 30480.
  struct Quads {
    using Sums = __m256i;
    static constexpr int values = 4;
    KR_INLINE Sums zero() { return _mm256_setzero_si256(); }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      Ints products;
      asm("vpmaddubsw %[x], %[weights], %[products]\n\tvpaddw %[products], %[sums], %[sums]"
          : [sums] "+x"(sums), [products] "=&x"(products)
          : [weights] "x"(weights), [x] "x"(x));
      return sums;
    }
    KR_INLINE Ints total(Sums sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
  };
};

}  // namespace
}  // namespace kr
