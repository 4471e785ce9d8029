// A feed-forward network of experts, of which each row goes through a few.
#pragma once

#include "linear.h"

namespace kr {

// y = residual + the chosen experts' down(activation(gate(x)) * up(x)), each times its weight, for rows of float32.
//
// Chosen are the experts with the largest values of `routing`, of equal ones the first; their weights are softmax's. A
// row's result depends on that row alone, bit for bit: its experts are added up in the order of their indices. If any of
// its `routing` is NaN, so is its result.
struct ExpertsJob {
  const float* x;        // [rows, inputs]
  int rows;
  const float* routing;  // [rows, experts]
  int experts;
  int chosen;
  bool normalized;       // the weights of those chosen add up to 1; otherwise all experts' do
  const Matrix* gates;   // [experts], each [inner, inputs]
  const Matrix* ups;     // like gates
  const Matrix* downs;   // [experts], each [outputs, inner]
  Gate gate;
  const float* residual;  // [rows, outputs], or null
  float* y;               // [rows, outputs]
  Rounding rounding;
};

void experts(const ExpertsJob& job);

}  // namespace kr
