// Four lanes in the compiler's generic vectors, for any processor: correct everywhere, fast nowhere.
#pragma once

#include <cstdint>
#include <cstring>

#include "chunk.h"
#include "exact_fma.h"
#include "floats.h"

#define KR_INLINE static inline __attribute__((always_inline))

namespace kr {
namespace {

struct PortableVector {
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  typedef uint32_t UnsignedInts __attribute__((vector_size(16)));
  typedef int16_t Shorts __attribute__((vector_size(16)));
  typedef uint16_t UnsignedShorts __attribute__((vector_size(16)));
  typedef int8_t Bytes __attribute__((vector_size(16)));

  static constexpr int lanes = 4;
  static constexpr int tile_vectors = 2;
  static constexpr int tile_rows = 4;
  static constexpr int few_rows = 2;      // rows that are served at once straight from packed weights

  KR_INLINE Floats zero() { return Floats{}; }
  KR_INLINE Floats splat(float x) { return Floats{x, x, x, x}; }
  KR_INLINE Floats load(const float* p) {
    Floats x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  KR_INLINE void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
  KR_INLINE Floats add(Floats a, Floats b) { return a + b; }
  KR_INLINE Floats multiply(Floats a, Floats b) { return a * b; }
  KR_INLINE Floats divide(Floats a, Floats b) { return a / b; }
  KR_INLINE Floats fma(Floats a, Floats b, Floats c) { return exact_fma(a, b, c); }
  KR_INLINE Floats max(Floats a, Floats b) { return a > b ? a : b; }
  KR_INLINE Floats min(Floats a, Floats b) { return a < b ? a : b; }
  KR_INLINE Floats magnitude(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }

  KR_INLINE Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }
  KR_INLINE Ints round(Floats x) {
    // Converting a NaN is undefined in C++; as on Arm, it becomes 0 here.
    const Floats number = x == x ? x : zero();
    // Adding and subtracting 1.5 * 2^23 leaves the nearest integer, ties to even.
    return __builtin_convertvector((number + 12582912.0f) - 12582912.0f, Ints);
  }
  KR_INLINE Floats power_of_two(Ints n) { return (Floats)((n + 127) << 23); }

  KR_INLINE Ints splat_bits(uint32_t x) {
    const auto bits = static_cast<int32_t>(x);
    return Ints{bits, bits, bits, bits};
  }
  KR_INLINE Ints load_bits(const void* p) {
    Ints x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  KR_INLINE void store_bits(void* p, Ints x) { std::memcpy(p, &x, sizeof x); }
  KR_INLINE Ints splat_32(const void* p) {
    int32_t x;
    std::memcpy(&x, p, sizeof x);
    return Ints{x, x, x, x};
  }
  KR_INLINE Ints add_ints(Ints a, Ints b) { return a + b; }
  KR_INLINE Ints bits_and(Ints a, Ints b) { return a & b; }
  template <int count>
  KR_INLINE Ints shift_right_16(Ints x) {
    return (Ints)((UnsignedShorts)x >> count);
  }
  template <int count>
  KR_INLINE Ints shift_right_32(Ints x) {
    return (Ints)((UnsignedInts)x >> count);
  }
  // The entries of a table of 16 bytes that each byte is the index of.
  KR_INLINE Ints looked_up(const uint8_t* table, Ints indices) {
    auto bytes = (Bytes)indices;
    for (int i = 0; i < 16; i++) bytes[i] = static_cast<int8_t>(table[bytes[i]]);
    return (Ints)bytes;
  }

  // The words of a chunk; nothing behind it is read.
  template <class Chunk>
  KR_INLINE Ints load_chunk(const uint8_t* p) {
    if constexpr (Chunk::bytes == 16) return load_bits(p);
    Bytes chunk{};
    std::memcpy(&chunk, p, Chunk::bytes);
    if constexpr (!Chunk::is_spread_out) {
      const Bytes packed = chunk;
      for (int i = 0; i < 16; i++) chunk[i] = packed[Chunk::spread[i]];
    }
    return (Ints)chunk;
  }

  // out[j] = the j-th word of the chunks at p, p + stride, ..., one row a lane.
  template <class Chunk>
  KR_INLINE void transposed(const uint8_t* p, size_t stride, Ints out[4]) {
    const Ints a = load_chunk<Chunk>(p), b = load_chunk<Chunk>(p + stride);
    const Ints c = load_chunk<Chunk>(p + 2 * stride), d = load_chunk<Chunk>(p + 3 * stride);
    for (int j = 0; j < 4; j++) out[j] = Ints{a[j], b[j], c[j], d[j]};
  }

  // Floats of the low and of the high 16 bits of every lane.
  KR_INLINE void widen(Ints pairs, Float type, Floats& low, Floats& high) {
    if (type == Float::bf16) {
      low = (Floats)(pairs << 16);
      high = (Floats)(pairs & static_cast<int32_t>(0xffff0000));
      return;
    }
    for (int i = 0; i < lanes; i++) {
      const auto pair = static_cast<uint32_t>(pairs[i]);
      low[i] = float16_to_float(static_cast<uint16_t>(pair));
      high[i] = float16_to_float(static_cast<uint16_t>(pair >> 16));
    }
  }

  // Products of two int16 a lane.
  struct Pairs {
    using Sums = Ints;
    static constexpr int values = 2;
    KR_INLINE Sums zero() { return Ints{}; }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      // The lanes' halves: shifted up and down again for the sign.
      return sums + ((weights << 16) >> 16) * ((x << 16) >> 16) + (weights >> 16) * (x >> 16);
    }
    KR_INLINE Ints total(Sums sums) { return sums; }
  };

  // Products of four bytes a lane, weights of four bits with activations. Two products stay below 2 * 15 * 127 = 3810,
  // which 16 bits hold.
  struct Quads {
    using Sums = Ints;
    static constexpr int values = 4;
    KR_INLINE Sums zero() { return Ints{}; }
    KR_INLINE Sums add_products(Sums sums, Ints weights, Ints x) {
      // The even and the odd bytes of every lane, as 16 bits; those of x are shifted up and down again for the sign.
      const auto even_x = (Shorts)((UnsignedShorts)x << 8) >> 8, odd_x = (Shorts)x >> 8;
      const auto even_w = (Shorts)weights & 0xff, odd_w = (Shorts)((UnsignedShorts)weights >> 8);
      const auto two = (Ints)(even_w * even_x + odd_w * odd_x);
      return sums + ((two << 16) >> 16) + (two >> 16);
    }
    KR_INLINE Ints total(Sums sums) { return sums; }
  };
};

}  // namespace
}  // namespace kr
