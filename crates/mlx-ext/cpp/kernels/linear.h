// Products of activations with weight matrices, with what stands before and after them in a transformer block.
#pragma once

#include "matrix.h"

namespace kr {

// How activations are rounded before they meet a quantized matrix.
enum class Rounding {
  int16,  // float32-like accuracy
  int8,   // less exact and faster, where bytes_meet() says so; int16 elsewhere
};

// Whether Rounding::int8 rounds activations to bytes before they meet these weights. The weights alone decide, never the
// processor, so that a model gives the same results on all of them. With 8 bits, byte products overflow 16 bits, and
// avoiding that costs what they save, unless there are instructions for it.
constexpr bool bytes_meet(const QuantizedMatrix& matrix) {
  return matrix.packing == Packing::affine && matrix.bits == 4;
}

// What the gate of a gated product goes through.
enum class Gate {
  none,        // the product is not gated
  silu,        // x sigmoid(x)
  gelu_tanh,   // x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2
  swiglu_oai,  // x sigmoid(1.702 x) of a gate of at most 7; it meets 1 + up, of an up between -7 and 7
};

// y = f(norm(x) W^T + bias) (+ residual), for rows of float32.
//
// Every output element is computed in one order of additions that depends on the matrix alone: never on the number of
// rows, on the row's place, or on the number of threads.
struct LinearJob {
  const float* x;            // [rows, inputs]
  int rows;
  const float* norm_weight;  // [inputs]: RMS normalization of each row of x first; null for none
  float norm_eps;
  const Matrix* matrices;    // of equal inputs
  int matrix_count;
  Gate gate;                 // unless none: two matrices of equal outputs, gate and up: y = activation(gate) * up
  const float* residual;     // [rows, width], added to y; may be y itself; null for none
  float* y;                  // [rows, width]; width is the sum of the matrices' outputs, gated it is one matrix's
  Rounding rounding;
  bool alone;                // on the calling thread alone, which may be one of the pool's
};

void linear(const LinearJob& job);

// The same for several jobs at once, each with at least one row, whose matrices have equal inputs: all threads are busy
// until the last of them, not until each.
void linear_each(const LinearJob* jobs, int count);

// Rows of a matrix as float32: y[i] = matrix[tokens[i]].
void embedding(const Matrix& matrix, const uint32_t* tokens, int count, float* y);

}  // namespace kr
