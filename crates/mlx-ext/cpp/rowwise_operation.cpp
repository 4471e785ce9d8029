// kr::rowwise as an operation of a chain.

#include "kernels/rowwise.h"
#include "operations.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace kr {
namespace {

// A part's arrays.
struct PartArrays {
  mx::array weight;
  std::optional<mx::array> bias;
  NormedPart part;  // without their addresses
};

struct Rowwise : Operation {
  Operand x;
  std::optional<Operand> residual;
  std::vector<PartArrays> parts;
  RowwiseJob job{};  // without the addresses of arrays

  explicit Rowwise(Operand x) : x(std::move(x)) {}

  Operands operands() const override {
    if (residual) return {&x, &*residual};
    return {&x};
  }

  void check() const override {
    require_contiguous(operands(), "an input of an operation on rows");
    for (const PartArrays& part : parts) {
      require_contiguous(part.weight, "the weight of a norm");
      if (part.bias) require_contiguous(*part.bias, "the bias of a norm");
    }
  }

  void run(const std::vector<float*>& values, float* out) const override {
    std::vector<NormedPart> now;
    for (const PartArrays& arrays : parts) {
      now.push_back(arrays.part);
      now.back().weight = arrays.weight.data<float>();
      now.back().bias = arrays.bias ? arrays.bias->data<float>() : nullptr;
    }
    RowwiseJob complete = job;
    complete.x = x.data(values);
    complete.parts = now.data();
    complete.part_count = static_cast<int>(now.size());
    complete.residual = residual ? residual->data(values) : nullptr;
    complete.y = out;
    rowwise(complete);
  }
};

}  // namespace
}  // namespace kr

struct MlxExtNormedPart {
  void* weight;
  void* bias;  // null: none
  float eps;
  int layer;  // 1: layer normalization
  int count;
};

struct MlxExtRowwise {
  void* x;
  void* residual;  // null: none
  const MlxExtNormedPart* parts;
  int part_count;
  int gelu;  // 1: the activation is GELU
  float factor;
  float soft_cap;  // 0: none
};

namespace kr {
namespace {

PartArrays arrays_of(ChainBuilder& chain, const MlxExtNormedPart& part) {
  const mx::array& weight = array_at(part.weight);
  require(weight.dtype() == mx::float32 && weight.ndim() == 1 && weight.size() > 0, "a norm's weight is float32 [width]");
  require(part.count > 0, "a norm has pieces");
  PartArrays arrays{chain.weight(weight), {}, {}};
  arrays.part.kind = part.layer ? NormKind::layer : NormKind::rms;
  arrays.part.eps = part.eps;
  arrays.part.width = weight.shape(0);
  arrays.part.count = part.count;
  if (part.bias) {
    require(part.layer != 0, "an RMS norm has no bias");
    const mx::array& bias = array_at(part.bias);
    require(bias.dtype() == mx::float32 && bias.shape() == weight.shape(), "a norm's bias is like its weight");
    arrays.bias = chain.weight(bias);
  }
  return arrays;
}

mx::array make_rowwise(const MlxExtRowwise& spec) {
  const mx::array& x = array_at(spec.x);
  const mx::array* residual = spec.residual ? &array_at(spec.residual) : nullptr;
  require(x.ndim() == 2 && x.dtype() == mx::float32, "the input of an operation on rows is float32 [rows, width]");
  ChainBuilder chain({&x, residual});
  auto operation = std::make_unique<Rowwise>(chain.activation(x));
  int64_t width = 0;
  for (int i = 0; i < spec.part_count; i++) {
    operation->parts.push_back(arrays_of(chain, spec.parts[i]));
    const NormedPart& part = operation->parts.back().part;
    width += int64_t{part.width} * part.count;
  }
  require(width <= x.shape(1), "a row is shorter than what of it is normalized");
  if (residual) {
    require(residual->dtype() == mx::float32 && residual->shape() == x.shape(), "a residual is float32 like the result");
    operation->residual = chain.activation(*residual);
  }
  operation->job.rows = x.shape(0);
  operation->job.width = x.shape(1);
  operation->job.gelu = spec.gelu != 0;
  operation->job.factor = spec.factor;
  operation->job.soft_cap = spec.soft_cap;
  return chain.append(x.shape(), std::move(operation));
}

}  // namespace
}  // namespace kr

extern "C" void* mlx_ext_rowwise(const MlxExtRowwise* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_rowwise(*spec); });
}
