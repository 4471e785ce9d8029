// kr::linear and kr::embedding as operations of a chain.

#include "kernels/linear.h"
#include "matrix_arrays.h"
#include "operations.h"

#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace kr {
namespace {

// kr::linear.
struct Linear : Operation {
  Operand x;
  std::optional<Operand> residual;
  std::optional<mx::array> norm;
  float eps;
  std::vector<MatrixArrays> matrices;
  Gate gate;
  Rounding rounding;
  int rows;

  explicit Linear(Operand x) : x(std::move(x)) {}

  Operands operands() const override {
    if (residual) return {&x, &*residual};
    return {&x};
  }

  void check() const override {
    require_contiguous(operands(), "an input of a product");
    if (norm) require_contiguous(*norm, "the weight of a norm");
    for (const MatrixArrays& matrix : matrices) matrix.check();
  }

  void run(const std::vector<float*>& values, float* out) const override {
    std::vector<Matrix> views;
    for (const MatrixArrays& matrix : matrices) views.push_back(matrix.view());
    LinearJob job{};
    job.x = x.data(values);
    job.rows = rows;
    job.norm_weight = norm ? norm->data<float>() : nullptr;
    job.norm_eps = eps;
    job.matrices = views.data();
    job.matrix_count = static_cast<int>(views.size());
    job.gate = gate;
    job.residual = residual ? residual->data(values) : nullptr;
    job.y = out;
    job.rounding = rounding;
    linear(job);
  }
};

// kr::embedding.
struct EmbeddingRows : Operation {
  mx::array tokens;
  MatrixArrays matrix;

  EmbeddingRows(mx::array tokens, MatrixArrays matrix) : tokens(std::move(tokens)), matrix(std::move(matrix)) {}

  Operands operands() const override { return {}; }

  void check() const override {
    require_contiguous(tokens, "an array of tokens");
    matrix.check();
  }

  void run(const std::vector<float*>&, float* out) const override {
    embedding(matrix.view(), tokens.data<uint32_t>(), static_cast<int>(tokens.size()), out);
  }
};

}  // namespace
}  // namespace kr

struct MlxExtLinear {
  void* x;
  void* norm;
  void* residual;
  const MlxExtMatrix* matrices;
  int matrix_count;
  float eps;
  int gate;  // kr::Gate
  int int8;
};

namespace kr {
namespace {

mx::array make_linear(const MlxExtLinear& spec) {
  const mx::array& x = array_at(spec.x);
  const mx::array* residual = spec.residual ? &array_at(spec.residual) : nullptr;
  require(x.ndim() == 2 && x.dtype() == mx::float32, "the input of a product is float32 [rows, inputs]");
  require(spec.gate >= 0 && spec.gate <= static_cast<int>(Gate::swiglu_oai), "no such activation");
  const bool gated = spec.gate != 0;
  require(!gated || spec.matrix_count == 2, "a gated product has two matrices");
  ChainBuilder chain({&x, residual});
  auto linear = std::make_unique<Linear>(chain.activation(x));
  linear->rows = x.shape(0);
  linear->eps = spec.eps;
  linear->gate = static_cast<Gate>(spec.gate);
  linear->rounding = spec.int8 ? Rounding::int8 : Rounding::int16;
  if (spec.norm) {
    const mx::array& norm = array_at(spec.norm);
    require(norm.dtype() == mx::float32 && norm.shape() == mx::Shape{x.shape(1)}, "a norm is float32, one an input");
    linear->norm = chain.weight(norm);
  }
  const auto keep = [&](const mx::array& array) { return chain.weight(array); };
  require(spec.matrix_count > 0, "a product has a matrix");
  int64_t width = 0;
  for (int i = 0; i < spec.matrix_count; i++) {
    linear->matrices.push_back(arrays_of(spec.matrices[i], x.shape(1), keep));
    const int outputs = linear->matrices.back().weight.shape(0);
    require(!gated || i == 0 || outputs == width, "gate and up differ in length");
    width = gated ? outputs : width + outputs;
  }
  require(width <= std::numeric_limits<int>::max(), "the result of a product is too wide");
  const mx::Shape shape{x.shape(0), static_cast<int>(width)};
  if (residual) {
    require(residual->dtype() == mx::float32 && residual->shape() == shape, "a residual is float32 like the result");
    linear->residual = chain.activation(*residual);
  }
  return chain.append(shape, std::move(linear));
}

mx::array make_embedding(const mx::array& tokens, const MlxExtMatrix& matrix, int columns) {
  require(tokens.ndim() == 1 && tokens.dtype() == mx::uint32, "tokens are uint32 [count]");
  ChainBuilder chain({});
  MatrixArrays arrays = arrays_of(matrix, columns, [&](const mx::array& array) { return chain.weight(array); });
  auto rows = std::make_unique<EmbeddingRows>(chain.weight(tokens), std::move(arrays));
  return chain.append({tokens.shape(0), columns}, std::move(rows));
}

}  // namespace
}  // namespace kr

extern "C" void* mlx_ext_linear(const MlxExtLinear* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_linear(*spec); });
}

extern "C" void* mlx_ext_embedding(
    void* tokens, const MlxExtMatrix* matrix, int columns, char* message, size_t message_size) noexcept {
  return kr::array_or_null(
      message, message_size, [&] { return kr::make_embedding(kr::array_at(tokens), *matrix, columns); });
}
