// Layers with a state, for any vector type.
#pragma once

#include <algorithm>
#include <cstring>

#include "exponential.h"
#include "gated_delta_kernel.h"
#include "recurrent_kernels.h"
#include "snapshots.h"

namespace kr {
namespace {

// Calls each(index, count) for every vector of `count` values; the last may have fewer than its lanes.
template <class Vec, class Each>
KR_INLINE void by_vectors(int count, const Each& each) {
  for (int i = 0; i < count; i += Vec::lanes) each(i, std::min(count - i, Vec::lanes));
}

template <class Vec>
KR_INLINE typename Vec::Floats load_some(const float* p, int count) {
  if (count == Vec::lanes) return Vec::load(p);
  float padded[Vec::lanes] = {};
  std::memcpy(padded, p, static_cast<size_t>(count) * sizeof(float));
  return Vec::load(padded);
}

template <class Vec>
KR_INLINE void store_some(float* p, int count, typename Vec::Floats x) {
  if (count == Vec::lanes) return Vec::store(p, x);
  float padded[Vec::lanes];
  Vec::store(padded, x);
  std::memcpy(p, padded, static_cast<size_t>(count) * sizeof(float));
}

template <class Vec>
KR_INLINE typename Vec::Floats sigmoid(typename Vec::Floats x) {
  const auto one = Vec::splat(1.0f);
  return Vec::divide(one, Vec::add(one, exponential<Vec>(Vec::multiply(x, Vec::splat(-1.0f)))));
}

// log(1 + e^x) is max(x, 0) + log(1 + e) with e = e^-|x|, and the logarithm is 2 atanh(z) with z = e / (2 + e) <= 1/3.
template <class Vec>
KR_INLINE typename Vec::Floats softplus(typename Vec::Floats x) {
  const auto e = exponential<Vec>(Vec::multiply(Vec::magnitude(x), Vec::splat(-1.0f)));
  const auto z = Vec::divide(e, Vec::add(Vec::splat(2.0f), e));
  const auto square = Vec::multiply(z, z);
  // The next term is below 2e-10 of the first.
  auto sum = Vec::splat(1.0f / 17);
  for (int odd = 15; odd > 0; odd -= 2) sum = Vec::fma(sum, square, Vec::splat(1.0f / static_cast<float>(odd)));
  const auto twice = Vec::multiply(z, Vec::splat(2.0f));
  return Vec::add(Vec::max(x, Vec::zero()), Vec::multiply(sum, twice));
}

template <class Vec>
KR_INLINE typename Vec::Floats activated(Activation activation, typename Vec::Floats x) {
  switch (activation) {
    case Activation::silu:
      return silu<Vec>(x);
    case Activation::gelu_tanh:
      return gelu_tanh<Vec>(x);
    default:
      return sigmoid<Vec>(x);
  }
}

template <class Vec>
void activate(Activation activation, const float* x, int count, float* y) {
  by_vectors<Vec>(count, [&](int i, int some) {
    store_some<Vec>(y + i, some, activated<Vec>(activation, load_some<Vec>(x + i, some)));
  });
}

template <class Vec>
void decay_of(const float* x, const float* log_rates, const float* biases, int count, float* y) {
  by_vectors<Vec>(count, [&](int i, int some) {
    const auto rate = exponential<Vec>(load_some<Vec>(log_rates + i, some));
    const auto time = softplus<Vec>(Vec::add(load_some<Vec>(x + i, some), load_some<Vec>(biases + i, some)));
    const auto power = Vec::multiply(Vec::multiply(rate, time), Vec::splat(-1.0f));
    store_some<Vec>(y + i, some, exponential<Vec>(power));
  });
}

template <class Vec>
void convolve_channels(const ConvolutionJob& job, const StateRow& row, int first) {
  constexpr int lanes = convolution_lanes;
  const int channels = job.channels, taps = job.taps, count = std::min(lanes, channels - first);
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  // The inputs of a token are in the ring from its own number on; unused lanes stay 0.
  alignas(64) float ring[max_taps][lanes], weight[max_taps][lanes], bias[lanes] = {};
  std::memset(ring, 0, sizeof ring[0] * taps);
  std::memset(weight, 0, sizeof weight[0] * taps);
  for (int tap = 0; tap < taps; tap++) {
    const size_t at = static_cast<size_t>(tap) * channels + first;
    std::memcpy(weight[tap], job.weight + at, bytes);
    if (row.from && tap + 1 < taps) std::memcpy(ring[tap], row.from + job.state_at + at, bytes);
  }
  if (job.bias) std::memcpy(bias, job.bias + first, bytes);
  const auto write = [&](float* to, int tokens) {
    for (int i = 0; i + 1 < taps; i++) {
      std::memcpy(to + job.state_at + static_cast<size_t>(i) * channels + first, ring[(tokens + i) % taps], bytes);
    }
  };
  int snapshot = 0;
  for (int t = 0; t < row.new_tokens; t++) {
    const size_t token = static_cast<size_t>(row.first_token) + t;
    const float* x = job.x + token * job.width() + first;
    float* input = ring[(t + taps - 1) % taps];
    if (job.gated) {
      for (int i = 0; i < count; i++) input[i] = x[i] * x[2 * channels + i];
    } else {
      std::memcpy(input, x, bytes);
    }
    alignas(64) float sums[lanes] = {};
    for (int tap = 0; tap < taps; tap++) {
      const float *at = ring[(t + tap) % taps], *by = weight[tap];
      for (int i = 0; i < lanes; i++) sums[i] += at[i] * by[i];
    }
    if (job.bias) {
      for (int i = 0; i < lanes; i++) sums[i] += bias[i];
    }
    if (job.silu) activate<Vec>(Activation::silu, sums, lanes, sums);
    if (job.gated) {
      for (int i = 0; i < count; i++) sums[i] *= x[channels + i];
    }
    std::memcpy(job.y + token * channels + first, sums, bytes);
    write_snapshots(row, t + 1, snapshot, [&](float* to) { write(to, t + 1); });
  }
  write(row.to, row.new_tokens);
}

template <class Vec>
constexpr RecurrentKernels recurrent_kernels_of() {
  return RecurrentKernels{
      .activate = activate<Vec>,
      .decay = decay_of<Vec>,
      .convolve = convolve_channels<Vec>,
      .gated_delta = gated_delta_values<Vec>,
  };
}

}  // namespace
}  // namespace kr
