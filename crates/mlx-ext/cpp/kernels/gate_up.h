// The gate of a gated product whose two halves are there already.
#pragma once

#include "linear.h"

namespace kr {

// y = activation(gate) * up, for rows [gate, up] of float32. The same arithmetic as that of a gated product.
struct GateUpJob {
  const float* x;  // [rows, 2 * width]
  int rows;
  int width;
  Gate gate;
  float* y;  // [rows, width]
};

void gate_up(const GateUpJob& job);

}  // namespace kr
