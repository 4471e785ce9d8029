// kr::head_products as an operation of a chain.

#include "kernels/head_products.h"

#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "matrix_arrays.h"
#include "operations.h"

namespace kr {
namespace {

struct HeadProducts : Operation {
  Operand x;
  MatrixArrays matrix;
  HeadProductsJob job{};  // without addresses

  HeadProducts(Operand x, MatrixArrays matrix) : x(std::move(x)), matrix(std::move(matrix)) {}

  Operands operands() const override { return {&x}; }

  void check() const override {
    require_contiguous(operands(), "an input of heads' products");
    matrix.check();
  }

  void run(const std::vector<float*>& values, float* out) const override {
    HeadProductsJob now = job;
    now.x = x.data(values);
    now.matrix = matrix.view();
    now.y = out;
    head_products(now);
  }
};

}  // namespace
}  // namespace kr

struct MlxExtHeadProducts {
  void* x;
  const MlxExtMatrix* matrix;
  int heads;
  int inputs;
  int first_input;
  int first_copied;
  int copied;
  int first_row;
  int outputs;
  int int8;
};

namespace kr {
namespace {

bool fits(int first, int count, int width) { return first >= 0 && count >= 0 && first <= width - count; }

mx::array make_head_products(const MlxExtHeadProducts& spec) {
  const mx::array& x = array_at(spec.x);
  require(x.ndim() == 2 && x.dtype() == mx::float32, "the input of heads' products is float32 [rows, heads * width]");
  require(spec.heads > 0 && x.shape(1) % spec.heads == 0, "heads are of one width");
  const int width = x.shape(1) / spec.heads;
  require(spec.inputs > 0 && fits(spec.first_input, spec.inputs, width), "a head has the inputs of its product");
  require(fits(spec.first_copied, spec.copied, width), "a head has the values that are copied");
  ChainBuilder chain({&x});
  const auto keep = [&](const mx::array& array) { return chain.weight(array); };
  MatrixArrays matrix = arrays_of(*spec.matrix, spec.inputs, keep);
  const int all = matrix.weight.shape(0);
  require(all % spec.heads == 0, "every head has as many rows of the matrix");
  require(spec.outputs > 0 && fits(spec.first_row, spec.outputs, all / spec.heads), "a head has the rows that are used");
  require(!matrix.bias, "heads' products have no bias");
  const int64_t made = int64_t{spec.heads} * (int64_t{spec.copied} + spec.outputs);
  require(made <= std::numeric_limits<int>::max(), "the result of heads' products is too wide");
  auto products = std::make_unique<HeadProducts>(chain.activation(x), std::move(matrix));
  HeadProductsJob& job = products->job;
  job.rows = x.shape(0);
  job.heads = spec.heads;
  job.width = width;
  job.first_input = spec.first_input;
  job.first_copied = spec.first_copied;
  job.copied = spec.copied;
  job.matrix_rows = all / spec.heads;
  job.first_row = spec.first_row;
  job.outputs = spec.outputs;
  job.rounding = spec.int8 ? Rounding::int8 : Rounding::int16;
  return chain.append({x.shape(0), static_cast<int>(made)}, std::move(products));
}

}  // namespace
}  // namespace kr

extern "C" void* mlx_ext_head_products(const MlxExtHeadProducts* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_head_products(*spec); });
}
