// Products of a row's heads, each with a matrix of its own.
#pragma once

#include "linear.h"

namespace kr {

// Of each head of a row of x: y = [copied values, W x[first_input ...]], where W are some rows of the head's part of `matrix`.
//
// A row's result depends on that row alone, bit for bit.
struct HeadProductsJob {
  const float* x;  // [rows, heads * width]
  int rows;
  int heads;
  int width;         // of a head in x
  int first_input;   // in a head of x: as many values as the matrix has inputs
  int first_copied;  // in a head of x
  int copied;        // values that are copied; may be 0
  Matrix matrix;     // [heads * matrix_rows, inputs], without bias
  int matrix_rows;   // of a head's part of the matrix
  int first_row;     // in that part
  int outputs;       // rows of it that are used
  float* y;          // [rows, heads * (copied + outputs)]
  Rounding rounding;
};

void head_products(const HeadProductsJob& job);

}  // namespace kr
