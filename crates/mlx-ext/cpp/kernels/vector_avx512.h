// AVX-512 with VNNI, in the terms in which the shared kernels are written.
#pragma once

// gcc 12's own header reads variables that it leaves undefined on purpose.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "chunk.h"
#include "matrix.h"

#define KR_INLINE static inline __attribute__((always_inline))

namespace kr {
namespace {

struct Avx512 {
  using Floats = __m512;
  using Ints = __m512i;

  static constexpr int lanes = 16;        // 32-bit elements of a vector
  static constexpr int tile_vectors = 2;  // vectors of outputs in a tile
  static constexpr int tile_rows = 12;    // rows of an unpacked product's accumulators: 12 x 2 of 32 registers
  static constexpr int few_rows = 8;      // rows that are served at once straight from packed weights

  KR_INLINE Floats zero() { return _mm512_setzero_ps(); }
  KR_INLINE Floats splat(float x) { return _mm512_set1_ps(x); }
  KR_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
  KR_INLINE void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  KR_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  KR_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  KR_INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  KR_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  KR_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  KR_INLINE Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  KR_INLINE Floats magnitude(Floats a) {
    return _mm512_castsi512_ps(_mm512_and_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)));
  }

  KR_INLINE Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
  KR_INLINE Ints round(Floats x) { return _mm512_cvtps_epi32(x); }  // to nearest, ties to even
  KR_INLINE Floats power_of_two(Ints n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
  }

  KR_INLINE Ints splat_bits(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  KR_INLINE Ints load_bits(const void* p) { return _mm512_loadu_si512(p); }
  KR_INLINE void store_bits(void* p, Ints x) { _mm512_storeu_si512(p, x); }
  KR_INLINE Ints splat_32(const void* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return _mm512_set1_epi32(bits);
  }
  KR_INLINE Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  KR_INLINE Ints bits_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
  template <int count>
  KR_INLINE Ints shift_right_16(Ints x) {
    return _mm512_srli_epi16(x, count);
  }
  template <int count>
  KR_INLINE Ints shift_right_32(Ints x) {
    return _mm512_srli_epi32(x, count);
  }
  // The entries of a table of 16 bytes that each byte is the index of.
  KR_INLINE Ints looked_up(const uint8_t* table, Ints indices) {
    const auto entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), indices);
  }

  // out[j] = the j-th word of the chunks at p, p + stride, ..., one row a lane.
  template <class Chunk>
  KR_INLINE void transposed(const uint8_t* p, size_t stride, Ints out[4]) {
    const auto row = [&](int i) {
      if constexpr (Chunk::bytes == 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * stride));
      // Nothing is read behind the chunk.
      if constexpr (Chunk::bytes == 12) return _mm_maskz_loadu_epi32(7, p + i * stride);
      return _mm_maskz_loadu_epi8((1 << Chunk::bytes) - 1, p + i * stride);
    };
    const auto four = [&](int i) {
      Ints rows = _mm512_castsi128_si512(row(i));
      rows = _mm512_inserti32x4(rows, row(i + 4), 1);
      rows = _mm512_inserti32x4(rows, row(i + 8), 2);
      rows = _mm512_inserti32x4(rows, row(i + 12), 3);
      if constexpr (Chunk::is_spread_out) return rows;
      const auto order = _mm_loadu_si128(reinterpret_cast<const __m128i*>(Chunk::spread.data()));
      return _mm512_shuffle_epi8(rows, _mm512_broadcast_i32x4(order));
    };
    const Ints r0 = four(0), r1 = four(1), r2 = four(2), r3 = four(3);
    const Ints low01 = _mm512_unpacklo_epi32(r0, r1), high01 = _mm512_unpackhi_epi32(r0, r1);
    const Ints low23 = _mm512_unpacklo_epi32(r2, r3), high23 = _mm512_unpackhi_epi32(r2, r3);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
  }

  // Floats of the low and of the high 16 bits of every lane.
  KR_INLINE void widen(Ints pairs, Float type, Floats& low, Floats& high) {
    if (type == Float::bf16) {
      low = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
      high = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
      return;
    }
    low = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
    high = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
  }

  // Both add_products below are assembly because gcc 12 copies the sums of its built-in functions to other registers
  // and back; there are not enough for that, the sums end up in memory, and a third of the speed is gone.

  // Products of two int16 a lane.
  struct Pairs {
    using Sums = __m512i;
    static constexpr int values = 2;
    KR_INLINE Sums zero() { return _mm512_setzero_si512(); }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      asm("vpdpwssd %[x], %[weights], %[sums]" : [sums] "+v"(sums) : [weights] "v"(weights), [x] "v"(x));
      return sums;
    }
    KR_INLINE Ints total(Sums sums) { return sums; }
  };

  // Products of four bytes a lane, weights of four bits with activations.
  struct Quads {
    using Sums = __m512i;
    static constexpr int values = 4;
    KR_INLINE Sums zero() { return _mm512_setzero_si512(); }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      asm("vpdpbusd %[x], %[weights], %[sums]" : [sums] "+v"(sums) : [weights] "v"(weights), [x] "v"(x));
      return sums;
    }
    KR_INLINE Ints total(Sums sums) { return sums; }
  };
};

}  // namespace
}  // namespace kr
