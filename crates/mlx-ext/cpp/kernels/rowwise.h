// What is done with each row of activations by itself: normalizations of its parts, an
// activation, a factor, a soft cap, a residual.
#pragma once

#include <cstddef>

namespace kr {

enum class NormKind {
  rms,    // x / rms(x) * weight
  layer,  // (x - mean(x)) / deviation(x) * weight + bias
};

// Neighbouring pieces of a row, of `width` values each, that are normalized alike, each by itself.
struct NormedPart {
  NormKind kind;
  const float* weight;  // [width]
  const float* bias;    // [width], or null
  float eps;
  int width;
  int count;
};

// y = residual + cap(factor * activation(norm(x))), for rows of float32. A row's result depends on that row alone, bit for bit.
struct RowwiseJob {
  const float* x;  // [rows, width]
  int rows;
  int width;
  const NormedPart* parts;  // from the row's beginning; what follows them is taken as it is
  int part_count;
  bool gelu;  // activation(v) = v Phi(v); otherwise v
  float factor;
  float soft_cap;         // cap(v) = soft_cap * tanh(v / soft_cap); 0: cap(v) = v
  const float* residual;  // [rows, width]; null for none
  float* y;               // [rows, width]
};

void rowwise(const RowwiseJob& job);

}  // namespace kr
