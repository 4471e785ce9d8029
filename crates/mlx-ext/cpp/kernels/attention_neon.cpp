// Attention for aarch64.
#include <arm_neon.h>

#include "attention_kernels.h"

namespace kr {
namespace {

struct Half {
  uint16_t bits;
};

struct Vec {
  float32x4_t low;
  float32x4_t high;
};

inline Vec broadcast(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
inline Vec load(const float* from) { return {vld1q_f32(from), vld1q_f32(from + 4)}; }
inline Vec load(const Half* from) {
  float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(&from->bits));
  return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}
inline void store(float* to, Vec value) {
  vst1q_f32(to, value.low);
  vst1q_f32(to + 4, value.high);
}

// Saturates: an infinity would turn the sums of other queries, who give its key no weight, into NaN. A NaN passes.
inline float32x4_t bounded(float32x4_t value) {
  return vmaxq_f32(vdupq_n_f32(-65504.0f), vminq_f32(vdupq_n_f32(65504.0f), value));
}
inline void store(Half* to, Vec value) {
  float16x4_t low = vcvt_f16_f32(bounded(value.low));
  vst1q_u16(&to->bits, vreinterpretq_u16_f16(vcvt_high_f16_f32(low, bounded(value.high))));
}

inline Vec add(Vec a, Vec b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
inline Vec sub(Vec a, Vec b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
inline Vec mul(Vec a, Vec b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline Vec divide(Vec a, Vec b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
inline Vec maximum(Vec a, Vec b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }
inline Vec round_to_even(Vec a) { return {vrndnq_f32(a.low), vrndnq_f32(a.high)}; }

// a * 2^exponent for a whole exponent, where the result is a normal number.
inline float32x4_t times_power_of_two(float32x4_t a, float32x4_t exponent) {
  int32x4_t shifted = vshlq_n_s32(vcvtnq_s32_f32(exponent), 23);
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), shifted));
}
inline Vec times_power_of_two(Vec a, Vec exponent) {
  return {times_power_of_two(a.low, exponent.low), times_power_of_two(a.high, exponent.high)};
}

inline float32x4_t zero_where_less(float32x4_t value, float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(a, b)));
}
inline Vec zero_where_less(Vec value, Vec a, Vec b) {
  return {zero_where_less(value.low, a.low, b.low), zero_where_less(value.high, a.high, b.high)};
}

inline float first_lane(Vec a) { return vgetq_lane_f32(a.low, 0); }
// In the order of the other units: the instruction that adds all lanes begins with neighbours.
inline float reduce_add(Vec a) {
  const float32x4_t four = vaddq_f32(a.low, a.high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float reduce_max(Vec a) { return vmaxvq_f32(vmaxq_f32(a.low, a.high)); }

}  // namespace
}  // namespace kr

#include "attention_narrow.h"

#include "attention_task.h"

namespace kr {

const AttentionKernels attention_kernels_neon = {append, attend, attend_partly, finish};

}  // namespace kr
