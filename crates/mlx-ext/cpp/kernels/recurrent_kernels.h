// What each instruction set provides for layers with a state.
#pragma once

#include "recurrent.h"

namespace kr {

// Channels, and components of values, that are computed at a time.
constexpr int convolution_lanes = 64;
constexpr int delta_lanes = 32;
constexpr int max_delta_blocks = max_delta_dim / delta_lanes;
// Tokens that every block of a head processes before any block goes on: few enough for their inputs and results to stay in
// the caches.
constexpr int delta_tokens = 16;

// Of every token and head of values, as GatedDeltaJob says.
struct DeltaGates {
  const float* betas;
  const float* decays;
};

// One head of values of a row, and some of its blocks of delta_lanes components.
struct DeltaTask {
  int head;
  int first_block;
  int blocks;
};

static inline size_t delta_scratch_floats(const GatedDeltaJob& job) {
  const size_t blocks = (job.value_dim + delta_lanes - 1) / delta_lanes;
  return size_t(job.key_dim) * (delta_lanes + 2 * delta_tokens + 1) + blocks * delta_lanes * delta_tokens;
}

struct RecurrentKernels {
  // y = activation(x); they may be the same.
  void (*activate)(Activation activation, const float* x, int count, float* y);

  // y = exp(-exp(log_rate) * softplus(x + bias)).
  void (*decay)(const float* x, const float* log_rates, const float* biases, int count, float* y);

  // One row's channels from `first` on, at most convolution_lanes.
  void (*convolve)(const ConvolutionJob& job, const StateRow& row, int first);

  // `scratch` has room for delta_scratch_floats(job), 64-byte aligned.
  void (*gated_delta)(const GatedDeltaJob& job, const DeltaGates& gates, const StateRow& row, const DeltaTask& task,
                      float* scratch);
};

// For the processor this runs on.
const RecurrentKernels& recurrent_kernels();

extern const RecurrentKernels portable_recurrent_kernels;
extern const RecurrentKernels avx2_recurrent_kernels;
extern const RecurrentKernels avx512_recurrent_kernels;
extern const RecurrentKernels neon_recurrent_kernels;

}  // namespace kr
