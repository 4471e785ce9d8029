// The 16-bit floats, one at a time. Included by units of every instruction set, hence all static.
#pragma once

#include <cstdint>
#include <cstring>

#include "matrix.h"

namespace kr {

static inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float bfloat16_to_float(uint16_t half) { return float_of_bits(static_cast<uint32_t>(half) << 16); }

static inline float float16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x0400) return float_of_bits(sign | ((magnitude << 13) + ((127 - 15) << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

// A power of two that is stored as its exponent, as MLX reads it: the least is 2^-127, and 255 is infinite.
static inline float e8m0_to_float(uint8_t exponent) {
  return float_of_bits(exponent ? static_cast<uint32_t>(exponent) << 23 : 0x00400000);
}

// For every float of 4 bits (e2m1) twice its value, and 12 more: integers from 0 to 24.
constexpr int e2m1_offset = 12;
constexpr uint8_t doubled_e2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

static inline int float_bytes(Float type) { return type == Float::f32 ? 4 : 2; }

// The index-th of an array of `type`.
static inline float float_at(const void* values, Float type, size_t index) {
  if (type == Float::f32) return static_cast<const float*>(values)[index];
  const uint16_t half = static_cast<const uint16_t*>(values)[index];
  return type == Float::f16 ? float16_to_float(half) : bfloat16_to_float(half);
}

}  // namespace kr
