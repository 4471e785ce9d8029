// kr::linear and kr::embedding as nodes of MLX's graph.

#include "kernels/linear.h"
#include "primitives.h"

#include <memory>
#include <utility>
#include <vector>

namespace kr {
namespace {

// Where a matrix's arrays stand among a primitive's inputs.
struct MatrixInputs {
  bool quantized;
  int group;
  int bits;
  bool has_bias;

  size_t count() const { return (quantized ? 3 : 1) + (has_bias ? 1 : 0); }
};

struct LinearOptions {
  bool norm;
  float eps;
  bool residual;
  bool swiglu;
  Rounding rounding;
};

Matrix matrix_of(const std::vector<mx::array>& inputs, size_t at, const MatrixInputs& spec) {
  Matrix matrix{};
  const mx::array& first = inputs[at];
  require_contiguous(first, "a weight matrix");
  if (spec.quantized) {
    const mx::array& scales = inputs[at + 1];
    const mx::array& biases = inputs[at + 2];
    require_contiguous(scales, "a matrix of scales");
    require_contiguous(biases, "a matrix of biases");
    const int outputs = first.shape(0);
    const int columns = static_cast<int>(first.shape(1) * 32 / spec.bits);
    matrix.kind = Matrix::Kind::quantized;
    matrix.quantized = {first.data<uint8_t>(), scales.data<void>(), biases.data<void>(), float_type(scales),
                        outputs,               columns,             spec.group,          spec.bits};
  } else {
    matrix.kind = Matrix::Kind::dense;
    matrix.dense = {first.data<void>(), float_type(first), first.shape(0), first.shape(1)};
  }
  matrix.bias = spec.has_bias ? inputs[at + spec.count() - 1].data<float>() : nullptr;
  return matrix;
}

class Linear : public mx::UnaryPrimitive {
 public:
  Linear(mx::Stream stream, LinearOptions options, std::vector<MatrixInputs> matrices)
      : UnaryPrimitive(stream), options_(options), matrices_(std::move(matrices)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    size_t at = 0;
    const mx::array& x = inputs[at++];
    require_contiguous(x, "the input of a product");
    LinearJob job{};
    job.x = x.data<float>();
    job.rows = static_cast<int>(x.shape(0));
    if (options_.norm) job.norm_weight = inputs[at++].data<float>();
    job.norm_eps = options_.eps;
    if (options_.residual) {
      require_contiguous(inputs[at], "a residual");
      job.residual = inputs[at++].data<float>();
    }
    std::vector<Matrix> matrices;
    for (const MatrixInputs& spec : matrices_) {
      matrices.push_back(matrix_of(inputs, at, spec));
      at += spec.count();
    }
    job.matrix_count = static_cast<int>(matrices.size());
    job.swiglu = options_.swiglu;
    job.y = out.data<float>();
    job.rounding = options_.rounding;
    mx::cpu::get_command_encoder(stream()).dispatch([job, matrices = std::move(matrices)]() mutable {
      job.matrices = matrices.data();
      linear(job);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("CPU only"); }

  const char* name() const override { return "kr::Linear"; }

 private:
  LinearOptions options_;
  std::vector<MatrixInputs> matrices_;
};

class EmbeddingRows : public mx::UnaryPrimitive {
 public:
  EmbeddingRows(mx::Stream stream, MatrixInputs matrix) : UnaryPrimitive(stream), matrix_(matrix) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    require_contiguous(inputs[0], "an array of tokens");
    mx::cpu::get_command_encoder(stream()).dispatch(
        [matrix = matrix_of(inputs, 1, matrix_), tokens = inputs[0].data<uint32_t>(),
         count = static_cast<int>(inputs[0].size()), y = out.data<float>()] { embedding(matrix, tokens, count, y); });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("CPU only"); }

  const char* name() const override { return "kr::EmbeddingRows"; }

 private:
  MatrixInputs matrix_;
};

}  // namespace
}  // namespace kr

// A matrix, as the Rust side describes it; arrays are contexts of mlx-c's mlx_array, null where there is none.
struct MlxExtMatrix {
  void* weight;
  void* scales;  // null: a dense matrix
  void* biases;
  void* bias;
  int group;
  int bits;
};

struct MlxExtLinear {
  void* x;
  void* norm;
  void* residual;
  const MlxExtMatrix* matrices;
  int matrix_count;
  float eps;
  int swiglu;
  int int8;
};

namespace kr {
namespace {

MatrixInputs add_matrix(std::vector<mx::array>& inputs, const MlxExtMatrix& matrix, int columns, int* outputs) {
  const mx::array& weight = array_at(matrix.weight);
  require(weight.ndim() == 2, "a weight matrix has two axes");
  inputs.push_back(weight);
  const bool quantized = matrix.scales != nullptr;
  if (quantized) {
    require(matrix.bits == 4 || matrix.bits == 8, "a quantized matrix has 4 or 8 bits");
    require(matrix.group == 32 || matrix.group == 64 || matrix.group == 128, "groups are of 32, 64 or 128");
    require(weight.dtype() == mx::uint32, "a quantized matrix is packed in uint32");
    const mx::Shape groups{weight.shape(0), columns / matrix.group};
    require(columns % matrix.group == 0 && int64_t{weight.shape(1)} * 32 == int64_t{columns} * matrix.bits,
            "a quantized matrix and its input differ in length");
    const mx::array& scales = array_at(matrix.scales);
    const mx::array& biases = array_at(matrix.biases);
    require(scales.shape() == groups && biases.shape() == groups, "a quantized matrix has one scale a group");
    require(scales.dtype() == biases.dtype(), "scales and biases differ in type");
    float_type(scales);
    inputs.push_back(scales);
    inputs.push_back(biases);
  } else {
    require(weight.shape(1) == columns, "a matrix and its input differ in length");
    float_type(weight);
  }
  if (matrix.bias) {
    const mx::array& bias = array_at(matrix.bias);
    require(bias.dtype() == mx::float32 && bias.shape() == mx::Shape{weight.shape(0)}, "a bias is float32, one an output");
    inputs.push_back(bias);
  }
  *outputs = weight.shape(0);
  return {quantized, matrix.group, matrix.bits, matrix.bias != nullptr};
}

mx::array make_linear(const MlxExtLinear& spec) {
  const mx::array& x = array_at(spec.x);
  require(x.ndim() == 2 && x.dtype() == mx::float32, "the input of a product is float32 [rows, inputs]");
  std::vector<mx::array> inputs{x};
  if (spec.norm) {
    const mx::array& norm = array_at(spec.norm);
    require(norm.dtype() == mx::float32 && norm.shape() == mx::Shape{x.shape(1)}, "a norm is float32, one an input");
    inputs.push_back(norm);
  }
  if (spec.residual) inputs.push_back(array_at(spec.residual));
  std::vector<MatrixInputs> matrices;
  int width = 0;
  for (int i = 0; i < spec.matrix_count; i++) {
    int outputs = 0;
    matrices.push_back(add_matrix(inputs, spec.matrices[i], x.shape(1), &outputs));
    require(!spec.swiglu || i == 0 || outputs == width, "gate and up differ in length");
    width = spec.swiglu ? outputs : width + outputs;
  }
  require(!spec.swiglu || spec.matrix_count == 2, "a gated product has two matrices");
  const mx::Shape shape{x.shape(0), width};
  if (spec.residual) {
    const mx::array& residual = array_at(spec.residual);
    require(residual.dtype() == mx::float32 && residual.shape() == shape, "a residual is float32 like the result");
  }
  LinearOptions options{spec.norm != nullptr, spec.eps, spec.residual != nullptr, spec.swiglu != 0,
                        spec.int8 ? Rounding::int8 : Rounding::int16};
  auto primitive = std::make_shared<Linear>(mx::default_stream(mx::Device::cpu), options, std::move(matrices));
  return mx::array(shape, mx::float32, std::move(primitive), std::move(inputs));
}

mx::array make_embedding(const mx::array& tokens, const MlxExtMatrix& matrix, int columns) {
  require(tokens.ndim() == 1 && tokens.dtype() == mx::uint32, "tokens are uint32 [count]");
  std::vector<mx::array> inputs{tokens};
  int outputs = 0;
  MatrixInputs spec = add_matrix(inputs, matrix, columns, &outputs);
  auto primitive = std::make_shared<EmbeddingRows>(mx::default_stream(mx::Device::cpu), spec);
  return mx::array(mx::Shape{tokens.shape(0), columns}, mx::float32, std::move(primitive), std::move(inputs));
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
