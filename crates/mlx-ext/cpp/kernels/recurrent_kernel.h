// Layers with a state, for any vector type.
#pragma once

#include <algorithm>
#include <cstring>

#include "exponential.h"
#include "recurrent_kernels.h"

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

// Calls write(to) for the snapshots behind `after` tokens; `next` is the first that was not written.
template <class Write>
KR_INLINE void write_snapshots(const StateRow& row, int after, int& next, const Write& write) {
  for (; next < row.snapshot_count && row.snapshots[next].after == after; next++) write(row.snapshots[next].to);
}

template <class Vec>
void convolve_channels(const ConvolutionJob& job, const StateRow& row, int first) {
  constexpr int lanes = convolution_lanes;
  const int channels = job.channels, taps = job.taps, count = std::min(lanes, channels - first);
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  // The inputs of a token are in the ring from its own number on; unused lanes stay 0.
  alignas(64) float ring[max_taps][lanes] = {}, weight[max_taps][lanes] = {}, bias[lanes] = {};
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

// One token: `state` becomes its state, and `values` what the query reads of that. Sums over keys are of the even ones and
// of the odd ones, each in order.
template <class Vec>
KR_INLINE void delta_token(const float* query, const float* key, int key_dim, float decay, float beta, float* state,
                           float* values) {
  constexpr int vectors = delta_lanes / Vec::lanes;
  using Floats = typename Vec::Floats;
  const Floats fading = Vec::splat(decay);
  const auto faded = [&](int i, int v) {
    return Vec::multiply(Vec::load(state + i * delta_lanes + v * Vec::lanes), fading);
  };
  Floats sums[2][vectors];
  for (auto& chain : sums) {
    for (auto& sum : chain) sum = Vec::zero();
  }
  const auto recall = [&](int i, Floats* chain) {
    const Floats part = Vec::splat(key[i]);
    for (int v = 0; v < vectors; v++) chain[v] = Vec::add(chain[v], Vec::multiply(faded(i, v), part));
  };
  int i = 0;
  for (; i + 1 < key_dim; i += 2) {
    recall(i, sums[0]);
    recall(i + 1, sums[1]);
  }
  if (i < key_dim) recall(i, sums[0]);
  Floats change[vectors];
  for (int v = 0; v < vectors; v++) {
    const Floats known = Vec::multiply(Vec::add(sums[0][v], sums[1][v]), Vec::splat(-1.0f));
    change[v] = Vec::multiply(Vec::add(Vec::load(values + v * Vec::lanes), known), Vec::splat(beta));
    sums[0][v] = sums[1][v] = Vec::zero();
  }
  const auto learn = [&](int i, Floats* chain) {
    const Floats part = Vec::splat(key[i]), asked = Vec::splat(query[i]);
    for (int v = 0; v < vectors; v++) {
      const Floats now = Vec::add(faded(i, v), Vec::multiply(part, change[v]));
      Vec::store(state + i * delta_lanes + v * Vec::lanes, now);
      chain[v] = Vec::add(chain[v], Vec::multiply(now, asked));
    }
  };
  for (i = 0; i + 1 < key_dim; i += 2) {
    learn(i, sums[0]);
    learn(i + 1, sums[1]);
  }
  if (i < key_dim) learn(i, sums[0]);
  for (int v = 0; v < vectors; v++) Vec::store(values + v * Vec::lanes, Vec::add(sums[0][v], sums[1][v]));
}

template <class Vec>
void gated_delta_values(const GatedDeltaJob& job, const DeltaGates& gates, const StateRow& row, int head, int first,
                        float* scratch) {
  const int key_dim = job.key_dim, value_dim = job.value_dim, count = std::min(delta_lanes, value_dim - first);
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  const size_t state_at = job.state_at + static_cast<size_t>(head) * key_dim * value_dim + first;
  std::memset(scratch, 0, static_cast<size_t>(key_dim) * delta_lanes * sizeof(float));
  if (row.from) {
    for (int i = 0; i < key_dim; i++) {
      std::memcpy(scratch + i * delta_lanes, row.from + state_at + static_cast<size_t>(i) * value_dim, bytes);
    }
  }
  const auto write = [&](float* to) {
    for (int i = 0; i < key_dim; i++) {
      std::memcpy(to + state_at + static_cast<size_t>(i) * value_dim, scratch + i * delta_lanes, bytes);
    }
  };
  const int key_head = head / (job.value_heads / job.key_heads);
  int snapshot = 0;
  for (int t = 0; t < row.new_tokens; t++) {
    const size_t token = static_cast<size_t>(row.first_token) + t;
    const float* query = job.qkv + token * job.width() + static_cast<size_t>(key_head) * key_dim;
    const float* key = query + static_cast<size_t>(job.key_heads) * key_dim;
    const float* value = job.qkv + token * job.width() + size_t{2} * job.key_heads * key_dim +
                         static_cast<size_t>(head) * value_dim + first;
    alignas(64) float values[delta_lanes] = {};
    std::memcpy(values, value, bytes);
    const size_t gate = token * job.value_heads + head;
    delta_token<Vec>(query, key, key_dim, gates.decays[gate], gates.betas[gate], scratch, values);
    std::memcpy(job.y + (token * job.value_heads + head) * value_dim + first, values, bytes);
    write_snapshots(row, t + 1, snapshot, write);
  }
  write(row.to);
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
