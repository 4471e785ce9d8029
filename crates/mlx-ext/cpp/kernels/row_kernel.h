// Arithmetic on single rows before and after the products, for any vector type.
#pragma once

#include <cmath>

#include "exponential.h"
#include "quantized_kernel.h"

namespace kr {
namespace {

// The sum of a vector's lanes, in their order.
template <class Vec>
KR_INLINE float sum_of_lanes(typename Vec::Floats x) {
  float lanes[Vec::lanes];
  Vec::store(lanes, x);
  float sum = lanes[0];
  for (int i = 1; i < Vec::lanes; i++) sum += lanes[i];
  return sum;
}

template <class Vec>
void normalize_row(const float* x, const float* weight, float eps, int inputs, float* y) {
  constexpr int lanes = Vec::lanes;
  auto even = Vec::zero(), odd = Vec::zero();  // two chains: additions overlap
  int i = 0;
  for (; i + 2 * lanes <= inputs; i += 2 * lanes) {
    const auto a = Vec::load(x + i), b = Vec::load(x + i + lanes);
    even = Vec::fma(a, a, even);
    odd = Vec::fma(b, b, odd);
  }
  float squares = sum_of_lanes<Vec>(Vec::add(even, odd));
  for (; i < inputs; i++) squares += x[i] * x[i];
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(inputs) + eps);
  i = 0;
  for (; i + lanes <= inputs; i += lanes) {
    Vec::store(y + i, Vec::multiply(Vec::multiply(Vec::load(x + i), Vec::splat(factor)), Vec::load(weight + i)));
  }
  for (; i < inputs; i++) y[i] = x[i] * factor * weight[i];
}

// One row. Infinities and NaNs show in the group's scale or sum.
template <class Vec, int bits, bool bytes>
void round_row_of(const float* x, int inputs, int group, void* values, float* scales, float* sums) {
  using Value = std::conditional_t<bytes, int8_t, int16_t>;
  constexpr float most = bytes ? 127.0f : 32767.0f;
  constexpr int lanes = Vec::lanes;
  auto* out = static_cast<Value*>(values);
  for (int g = 0; g < inputs / group; g++, x += group, out += group) {
    auto largest = Vec::zero(), sum = Vec::zero();
    for (int i = 0; i < group; i += lanes) {
      const auto here = Vec::load(x + i);
      largest = Vec::max(largest, Vec::magnitude(here));
      sum = Vec::add(sum, here);
    }
    float magnitudes[lanes];
    Vec::store(magnitudes, largest);
    float magnitude = magnitudes[0];
    for (int i = 1; i < lanes; i++) magnitude = magnitudes[i] > magnitude ? magnitudes[i] : magnitude;
    // Below this the factor would overflow; nothing of such a group is visible beside its sum.
    const bool vanishes = magnitude < 1e-30f;
    scales[g] = vanishes ? 0.0f : magnitude / most;
    const float plain_sum = sum_of_lanes<Vec>(sum);

    const auto factor = Vec::splat(vanishes ? 0.0f : most / magnitude);
    int32_t rounded[128];
    for (int i = 0; i < group; i += lanes) {
      Vec::store_bits(rounded + i, Vec::round(Vec::multiply(Vec::load(x + i), factor)));
    }
    // The sum of the rounded values, exactly: it meets the weights' bias, and most of what rounding does to the
    // products with the weights' unsigned values is taken back by what it does to this.
    int32_t rounded_sum = 0;
    for (int i = 0; i < group; i++) rounded_sum += rounded[i];
    sums[g] = vanishes || !std::isfinite(plain_sum) ? plain_sum : scales[g] * static_cast<float>(rounded_sum);
    for (int i = 0; i < group; i += 8) {
      for (int place = 0; place < 8; place++) {
        out[i + place] = static_cast<Value>(rounded[i + unpacked_order<bits, bytes>(place)]);
      }
    }
  }
}

template <class Vec>
void round_row(const float* x, int inputs, int group, int bits, bool bytes, void* values, float* scales, float* sums) {
  if (bits == 4) {
    return bytes ? round_row_of<Vec, 4, true>(x, inputs, group, values, scales, sums)
                 : round_row_of<Vec, 4, false>(x, inputs, group, values, scales, sums);
  }
  return bytes ? round_row_of<Vec, 8, true>(x, inputs, group, values, scales, sums)
               : round_row_of<Vec, 8, false>(x, inputs, group, values, scales, sums);
}

template <class Vec>
void swiglu_rows(float* gate, const float* up, int count) {
  for (int i = 0; i < count; i += Vec::lanes) {
    Vec::store(gate + i, Vec::multiply(silu<Vec>(Vec::load(gate + i)), Vec::load(up + i)));
  }
}

template <class Vec>
bool bytes_pay_here(int bits) {
  return Vec::Quads::pays(bits);
}

template <class Vec>
constexpr TileKernels tile_kernels_of() {
  return TileKernels{
      .tile_outputs = Vec::lanes * Vec::tile_vectors,
      .rows_together = Vec::tile_rows,
      .bytes_pay = bytes_pay_here<Vec>,
      .normalize = normalize_row<Vec>,
      .round = round_row<Vec>,
      .quantized = quantized_tile<Vec>,
      .dense = dense_tile<Vec>,
      .swiglu = swiglu_rows<Vec>,
  };
}

}  // namespace
}  // namespace kr
