// Layers that keep a state of each sequence: short causal convolutions and the gated delta rule.
//
// A state is never changed: a step reads the one that a row goes on from and writes others. Sums have a fixed order and no
// fused multiply-adds, so that a row's result depends on its own tokens alone, bit for bit: not on how they were cut, not
// on other rows, not on the instruction set.
#pragma once

#include <cstddef>

namespace kr {

// A state that is written in the middle of a row, behind so many of its tokens.
struct StateSnapshot {
  int after;
  float* to;
};

// One sequence's part of a step. A layer's state lies at an offset that all rows share.
struct StateRow {
  int first_token;  // its first row of activations
  int new_tokens;
  const float* from;  // null: the sequence begins
  float* to;
  const StateSnapshot* snapshots;  // in the order of their tokens, which are fewer than the row's
  int snapshot_count;
};

constexpr int max_taps = 16;

// y = activation(sum over taps of weight * input + bias), each channel by itself. The state is the last taps - 1 inputs,
// the oldest first.
struct ConvolutionJob {
  const float* x;  // [tokens, width]
  int channels;
  int taps;
  const float* weight;  // [taps, channels], the oldest input's first
  const float* bias;    // [channels]; null: none
  // A row of x has three parts of `channels` each: the input is the product of the first and the last, and the result is
  // multiplied by the one between.
  bool gated;
  bool silu;
  const StateRow* rows;
  int row_count;
  size_t state_at;  // in a state, in floats
  float* y;         // [tokens, channels]

  int width() const { return gated ? 3 * channels : channels; }
};

void convolution(const ConvolutionJob& job);

constexpr int max_delta_dim = 1024;

// For each head of values, with the state S `[key_dim, value_dim]`:
//   S = decay * S;  S += key (beta * (value - key S));  y = query S
// where beta = sigmoid(b) and decay = exp(-exp(log_rate) * softplus(a + bias)). Several heads of values may share one of
// queries and keys.
struct GatedDeltaJob {
  const float* qkv;    // [tokens, 2 * key_heads * key_dim + value_heads * value_dim]
  const float* gates;  // [tokens, 2 * value_heads]: b, then a
  const float* log_rates;  // [value_heads]
  const float* biases;     // [value_heads]
  int tokens;
  int key_heads;
  int value_heads;
  int key_dim;
  int value_dim;
  const StateRow* rows;
  int row_count;
  size_t state_at;
  float* y;  // [tokens, value_heads * value_dim]

  int width() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
};

void gated_delta(const GatedDeltaJob& job);

enum class Activation { silu, sigmoid, gelu_tanh };

// y = residual + activation(gate) * x.
struct GatedJob {
  const float* x;         // [rows, width]
  const float* gate;      // [rows, gate_width]
  const float* residual;  // [rows, width]; null: none
  int rows;
  int width;
  int gate_width;  // `width`, or 1: one for the whole row
  Activation activation;
  float* y;  // [rows, width]
};

void gated(const GatedJob& job);

}  // namespace kr
