#include "head_products.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "floats.h"
#include "pool.h"

namespace kr {

namespace {

// Rows that a task takes: their values stay in a core's cache, and a matrix is read once for so many.
constexpr int rows_a_task = 32;

// Some rows of a matrix.
Matrix part_of(Matrix matrix, size_t first, int outputs) {
  if (matrix.kind == Matrix::Kind::dense) {
    DenseMatrix& dense = matrix.dense;
    dense.values = static_cast<const char*>(dense.values) + first * dense.inputs * float_bytes(dense.type);
    dense.outputs = outputs;
    return matrix;
  }
  QuantizedMatrix& quantized = matrix.quantized;
  const size_t groups = quantized.inputs / quantized.group;
  const size_t scale_bytes = quantized.packing == Packing::affine ? float_bytes(quantized.type) : 1;
  quantized.packed += first * quantized.inputs * quantized.bits / 8;
  quantized.scales = static_cast<const char*>(quantized.scales) + first * groups * scale_bytes;
  if (quantized.biases) quantized.biases = static_cast<const char*>(quantized.biases) + first * groups * scale_bytes;
  quantized.outputs = outputs;
  return matrix;
}

void compute(const HeadProductsJob& job, int head, int first, int rows) {
  static thread_local std::vector<float> inputs, outputs;
  const size_t width = job.matrix.inputs();
  inputs.resize(rows * width);
  outputs.resize(static_cast<size_t>(rows) * job.outputs);
  const auto head_of_x = [&](int r) {
    return job.x + (static_cast<size_t>(first + r) * job.heads + head) * job.width;
  };
  for (int r = 0; r < rows; r++) std::copy_n(head_of_x(r) + job.first_input, width, inputs.data() + r * width);
  const Matrix matrix = part_of(job.matrix, static_cast<size_t>(head) * job.matrix_rows + job.first_row, job.outputs);
  LinearJob product{};
  product.x = inputs.data();
  product.rows = rows;
  product.matrices = &matrix;
  product.matrix_count = 1;
  product.gate = Gate::none;
  product.y = outputs.data();
  product.rounding = job.rounding;
  product.alone = true;
  linear(product);
  const size_t made = job.copied + job.outputs;
  for (int r = 0; r < rows; r++) {
    float* y = job.y + (static_cast<size_t>(first + r) * job.heads + head) * made;
    std::copy_n(head_of_x(r) + job.first_copied, job.copied, y);
    std::copy_n(outputs.data() + static_cast<size_t>(r) * job.outputs, job.outputs, y + job.copied);
  }
}

}  // namespace

void head_products(const HeadProductsJob& job) {
  const int blocks = (job.rows + rows_a_task - 1) / rows_a_task;
  Pool::shared().run(job.heads * blocks, [&](int task) {
    const int first = task % blocks * rows_a_task;
    compute(job, task / blocks, first, std::min(rows_a_task, job.rows - first));
  });
}

}  // namespace kr
