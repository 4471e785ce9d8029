// A feed-forward network of experts, of which each row goes through a few.
#pragma once

#include "linear.h"
#include "routing.h"

namespace kr {

// y = residual + the chosen experts' down(activation(gate(x)) * up(x)), each times its weight, for rows of float32.
//
// A row's result depends on that row alone, bit for bit: its experts are added up in the order of their indices. If any of
// what the router gives for it is NaN, so is its result.
struct ExpertsJob {
  const float* x;        // [rows, inputs]
  int rows;
  const float* router;   // [rows, experts]: outputs of the router
  Routing routing;
  bool weighs_inputs;    // weights multiply what experts get; otherwise what they give
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
