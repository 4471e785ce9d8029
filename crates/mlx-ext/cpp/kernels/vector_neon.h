// Advanced SIMD of 64-bit Arm, in the terms in which the shared kernels are written.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "chunk.h"
#include "matrix.h"

#define KR_INLINE static inline __attribute__((always_inline))

namespace kr {
namespace {

struct Neon {
  using Floats = float32x4_t;
  using Ints = int32x4_t;

  static constexpr int lanes = 4;         // 32-bit elements of a vector
  static constexpr int tile_vectors = 2;  // vectors of outputs in a tile
  static constexpr int tile_rows = 5;     // rows of an unpacked product's accumulators: 5 x 2 x 2 of 32 registers
  static constexpr int few_rows = 2;      // rows that are served at once straight from packed weights

  KR_INLINE Floats zero() { return vdupq_n_f32(0); }
  KR_INLINE Floats splat(float x) { return vdupq_n_f32(x); }
  KR_INLINE Floats load(const float* p) { return vld1q_f32(p); }
  KR_INLINE void store(float* p, Floats x) { vst1q_f32(p, x); }
  KR_INLINE Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  KR_INLINE Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  KR_INLINE Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
  KR_INLINE Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  KR_INLINE Floats max(Floats a, Floats b) { return vmaxq_f32(a, b); }
  KR_INLINE Floats min(Floats a, Floats b) { return vminq_f32(a, b); }
  KR_INLINE Floats magnitude(Floats a) { return vabsq_f32(a); }

  KR_INLINE Floats to_floats(Ints x) { return vcvtq_f32_s32(x); }
  KR_INLINE Ints round(Floats x) { return vcvtnq_s32_f32(x); }  // to nearest, ties to even
  KR_INLINE Floats power_of_two(Ints n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
  }

  KR_INLINE Ints splat_bits(uint32_t x) { return vreinterpretq_s32_u32(vdupq_n_u32(x)); }
  KR_INLINE Ints load_bits(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
  KR_INLINE void store_bits(void* p, Ints x) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(x)); }
  KR_INLINE Ints splat_32(const void* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return vdupq_n_s32(bits);
  }
  KR_INLINE Ints add_ints(Ints a, Ints b) { return vaddq_s32(a, b); }
  KR_INLINE Ints bits_and(Ints a, Ints b) { return vandq_s32(a, b); }
  template <int count>
  KR_INLINE Ints shift_right_16(Ints x) {
    return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(x), count));
  }
  template <int count>
  KR_INLINE Ints shift_right_32(Ints x) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), count));
  }
  // The entries of a table of 16 bytes that each byte is the index of.
  KR_INLINE Ints looked_up(const uint8_t* table, Ints indices) {
    return vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(table), vreinterpretq_u8_s32(indices)));
  }

  // The words of a chunk; nothing behind it is read.
  template <class Chunk>
  KR_INLINE Ints load_chunk(const uint8_t* p) {
    if constexpr (Chunk::bytes == 16) return load_bits(p);
    uint8x16_t chunk = vcombine_u8(vld1_u8(p), vdup_n_u8(0));
    if constexpr (Chunk::bytes == 12) {
      uint32_t last;
      std::memcpy(&last, p + 8, sizeof last);
      chunk = vreinterpretq_u8_u32(vsetq_lane_u32(last, vreinterpretq_u32_u8(chunk), 2));
    } else if constexpr (Chunk::bytes == 10) {
      uint16_t last;
      std::memcpy(&last, p + 8, sizeof last);
      chunk = vreinterpretq_u8_u16(vsetq_lane_u16(last, vreinterpretq_u16_u8(chunk), 4));
    }
    if constexpr (!Chunk::is_spread_out) {
      chunk = vqtbl1q_u8(chunk, vreinterpretq_u8_s8(vld1q_s8(Chunk::spread.data())));
    }
    return vreinterpretq_s32_u8(chunk);
  }

  // out[j] = the j-th word of the chunks at p, p + stride, ..., one row a lane.
  template <class Chunk>
  KR_INLINE void transposed(const uint8_t* p, size_t stride, Ints out[4]) {
    const Ints a = load_chunk<Chunk>(p), b = load_chunk<Chunk>(p + stride);
    const Ints c = load_chunk<Chunk>(p + 2 * stride), d = load_chunk<Chunk>(p + 3 * stride);
    const auto wide = [](Ints x) { return vreinterpretq_s64_s32(x); };
    const auto low_ab = wide(vtrn1q_s32(a, b)), high_ab = wide(vtrn2q_s32(a, b));
    const auto low_cd = wide(vtrn1q_s32(c, d)), high_cd = wide(vtrn2q_s32(c, d));
    out[0] = vreinterpretq_s32_s64(vtrn1q_s64(low_ab, low_cd));
    out[1] = vreinterpretq_s32_s64(vtrn1q_s64(high_ab, high_cd));
    out[2] = vreinterpretq_s32_s64(vtrn2q_s64(low_ab, low_cd));
    out[3] = vreinterpretq_s32_s64(vtrn2q_s64(high_ab, high_cd));
  }

  // Floats of the low and of the high 16 bits of every lane.
  KR_INLINE void widen(Ints pairs, Float type, Floats& low, Floats& high) {
    const uint32x4_t bits = vreinterpretq_u32_s32(pairs);
    if (type == Float::bf16) {
      low = vreinterpretq_f32_u32(vshlq_n_u32(bits, 16));
      high = vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000)));
      return;
    }
    low = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(bits)));
    high = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(bits, 16)));
  }

  // Products of two int16 a lane. The two products of a lane grow apart until total.
  struct Pairs {
    struct Sums {
      int32x4_t low, high;
    };
    static constexpr int values = 2;
    KR_INLINE Sums zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      const int16x8_t w = vreinterpretq_s16_s32(weights), xs = vreinterpretq_s16_s32(x);
      return {vmlal_s16(sums.low, vget_low_s16(w), vget_low_s16(xs)), vmlal_high_s16(sums.high, w, xs)};
    }
    KR_INLINE Ints total(Sums sums) { return vpaddq_s32(sums.low, sums.high); }
  };

  // Products of four bytes a lane, weights of four bits with activations. Two products stay below 2 * 15 * 127 = 3810,
  // which 16 bits hold. (The later dot-product instructions would be faster; not every processor has them.)
  struct Quads {
    using Sums = int32x4_t;
    static constexpr int values = 4;
    KR_INLINE Sums zero() { return vdupq_n_s32(0); }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      const int8x16_t w = vreinterpretq_s8_s32(weights), xs = vreinterpretq_s8_s32(x);
      const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(xs)), high = vmull_high_s8(w, xs);
      return vpadalq_s16(sums, vpaddq_s16(low, high));
    }
    KR_INLINE Ints total(Sums sums) { return sums; }
  };
};

}  // namespace
}  // namespace kr
