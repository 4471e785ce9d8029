// What each instruction set provides for layers with a state.
#pragma once

#include "recurrent.h"

namespace kr {

// Channels and components of values that are computed at a time.
constexpr int convolution_lanes = 64;
constexpr int delta_lanes = 32;

// Of every token and head of values, as GatedDeltaJob says.
struct DeltaGates {
  const float* betas;
  const float* decays;
};

struct RecurrentKernels {
  // y = activation(x); they may be the same.
  void (*activate)(Activation activation, const float* x, int count, float* y);

  // y = exp(-exp(log_rate) * softplus(x + bias)).
  void (*decay)(const float* x, const float* log_rates, const float* biases, int count, float* y);

  // One row's channels from `first` on, at most convolution_lanes.
  void (*convolve)(const ConvolutionJob& job, const StateRow& row, int first);

  // One row's and one head's components of values from `first` on, at most delta_lanes. `scratch` has room for
  // key_dim * delta_lanes, 64-byte aligned.
  void (*gated_delta)(const GatedDeltaJob& job, const DeltaGates& gates, const StateRow& row, int head, int first,
                      float* scratch);
};

// For the processor this runs on.
const RecurrentKernels& recurrent_kernels();

extern const RecurrentKernels portable_recurrent_kernels;
extern const RecurrentKernels avx2_recurrent_kernels;
extern const RecurrentKernels avx512_recurrent_kernels;
extern const RecurrentKernels neon_recurrent_kernels;

}  // namespace kr
