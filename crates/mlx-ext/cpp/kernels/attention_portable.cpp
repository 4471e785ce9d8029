// Attention in plain C++, for machines without a unit of their own.
#include <cmath>
#include <cstring>

#include "attention_kernels.h"
#include "exact_fma.h"

namespace kr {
namespace {

struct Half {
  uint16_t bits;
};

// Compilers make two SSE2 (or other 128-bit) registers of it.
struct Vec {
  float lane[8];
};

template <class Operation>
inline Vec each(Operation operation) {
  Vec result;
  for (int l = 0; l < 8; ++l) result.lane[l] = operation(l);
  return result;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Shifted into place, the exponent is 112 too small; a multiplication repairs that for subnormal numbers, too.
inline float widen(Half half) {
  uint32_t magnitude = uint32_t(half.bits & 0x7fff) << 13;
  float value = float_of(magnitude) * float_of((127 + 112) << 23);
  bool special = (half.bits & 0x7c00) == 0x7c00;
  uint32_t bits = special ? magnitude | 0x7f800000 : bits_of(value);
  return float_of(bits | uint32_t(half.bits & 0x8000) << 16);
}

// Rounds to nearest even. Saturates: an infinity would turn the sums of other queries, who give its key no weight,
// into NaN.
inline Half narrow(float value) {
  uint32_t sign = bits_of(value) >> 16 & 0x8000;
  float magnitude = std::fabs(value);
  if (magnitude != magnitude) return {uint16_t(sign | 0x7e00)};
  if (magnitude > 65504.0f) magnitude = 65504.0f;
  uint32_t bits = bits_of(magnitude);
  // Below the smallest normal f16: adding 1/2 leaves the multiples of 2^-24, rounded, in the lowest bits.
  if (magnitude < 6.103515625e-05f) return {uint16_t(sign | (bits_of(magnitude + 0.5f) - bits_of(0.5f)))};
  bits += 0xfff + (bits >> 13 & 1);
  return {uint16_t(sign | ((bits >> 13) - (112 << 10)))};
}

inline Vec broadcast(float value) {
  return each([&](int) { return value; });
}
inline Vec load(const float* from) {
  return each([&](int l) { return from[l]; });
}
inline Vec load(const Half* from) {
  return each([&](int l) { return widen(from[l]); });
}
inline void store(float* to, const Vec& value) {
  for (int l = 0; l < 8; ++l) to[l] = value.lane[l];
}
inline void store(Half* to, const Vec& value) {
  for (int l = 0; l < 8; ++l) to[l] = narrow(value.lane[l]);
}

inline Vec add(const Vec& a, const Vec& b) {
  return each([&](int l) { return a.lane[l] + b.lane[l]; });
}
inline Vec sub(const Vec& a, const Vec& b) {
  return each([&](int l) { return a.lane[l] - b.lane[l]; });
}
inline Vec mul(const Vec& a, const Vec& b) {
  return each([&](int l) { return a.lane[l] * b.lane[l]; });
}
inline Vec divide(const Vec& a, const Vec& b) {
  return each([&](int l) { return a.lane[l] / b.lane[l]; });
}
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  Vec result;
  for (int l = 0; l < 8; l += 4) {
    FourFloats four[3];
    std::memcpy(&four[0], a.lane + l, sizeof four[0]);
    std::memcpy(&four[1], b.lane + l, sizeof four[1]);
    std::memcpy(&four[2], c.lane + l, sizeof four[2]);
    four[0] = exact_fma(four[0], four[1], four[2]);
    std::memcpy(result.lane + l, &four[0], sizeof four[0]);
  }
  return result;
}
// b where either is NaN.
inline Vec maximum(const Vec& a, const Vec& b) {
  return each([&](int l) { return a.lane[l] > b.lane[l] ? a.lane[l] : b.lane[l]; });
}

// For magnitudes below 2^22: there, adding 3 * 2^22 leaves no bits for a fraction.
inline Vec round_to_even(const Vec& a) {
  const float shifter = 12582912.0f;
  return each([&](int l) { return (a.lane[l] + shifter) - shifter; });
}

// a * 2^exponent for a whole exponent, where the result is a normal number.
inline Vec times_power_of_two(const Vec& a, const Vec& exponent) {
  // A NaN has no integer; the bits of the sum with 3 * 2^23 / 2 do, and they hold the exponent in two's complement.
  const float shifter = 12582912.0f;
  return each([&](int l) {
    uint32_t whole = bits_of(exponent.lane[l] + shifter) - bits_of(shifter);
    return a.lane[l] != a.lane[l] ? a.lane[l] : float_of(bits_of(a.lane[l]) + (whole << 23));
  });
}

inline Vec zero_where_less(const Vec& value, const Vec& a, const Vec& b) {
  return each([&](int l) { return a.lane[l] < b.lane[l] ? 0.0f : value.lane[l]; });
}

inline float first_lane(const Vec& a) { return a.lane[0]; }

inline float reduce_add(const Vec& a) {
  return ((a.lane[0] + a.lane[4]) + (a.lane[2] + a.lane[6])) + ((a.lane[1] + a.lane[5]) + (a.lane[3] + a.lane[7]));
}

inline float reduce_max(const Vec& a) {
  float largest = a.lane[0];
  for (int l = 1; l < 8; ++l) largest = a.lane[l] > largest ? a.lane[l] : largest;
  return largest;
}

}  // namespace
}  // namespace kr

#include "attention_narrow.h"

#include "attention_task.h"

namespace kr {

const AttentionKernels attention_kernels_portable = {append, attend, attend_partly, finish};

}  // namespace kr
