// kr::gated, and a choice of columns, as operations of a chain.

#include "kernels/recurrent.h"
#include "operations.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace kr {
namespace {

struct Gated : Operation {
  Operand x, gate;
  std::optional<Operand> residual;
  GatedJob job{};  // without addresses

  Gated(Operand x, Operand gate) : x(std::move(x)), gate(std::move(gate)) {}

  Operands operands() const override {
    if (residual) return {&x, &gate, &*residual};
    return {&x, &gate};
  }

  void check() const override {
    require_contiguous(operands(), "an input of a gate");
  }

  void run(const std::vector<float*>& values, float* out) const override {
    GatedJob now = job;
    now.x = x.data(values);
    now.gate = gate.data(values);
    now.residual = residual ? residual->data(values) : nullptr;
    now.y = out;
    gated(now);
  }
};

// Neighbouring columns.
struct Piece {
  int first;
  int count;
};

struct Columns : Operation {
  Operand x;
  std::vector<Piece> pieces;
  int rows = 0;
  int width = 0;

  explicit Columns(Operand x) : x(std::move(x)) {}

  Operands operands() const override { return {&x}; }

  void check() const override {
    require_contiguous(operands(), "what columns are chosen from");
  }

  void run(const std::vector<float*>& values, float* out) const override {
    const float* from = x.data(values);
    for (int row = 0; row < rows; row++, from += width) {
      for (const Piece& piece : pieces) {
        out = std::copy_n(from + piece.first, piece.count, out);
      }
    }
  }
};

}  // namespace
}  // namespace kr

struct MlxExtGated {
  void* x;
  void* gate;
  void* residual;  // null: none
  int activation;  // kr::Activation
};

struct MlxExtPiece {
  int first;
  int count;
};

namespace kr {
namespace {

mx::array make_gated(const MlxExtGated& spec) {
  const mx::array& x = array_at(spec.x);
  const mx::array& gate = array_at(spec.gate);
  const mx::array* residual = spec.residual ? &array_at(spec.residual) : nullptr;
  require(x.ndim() == 2 && x.dtype() == mx::float32, "what is gated is float32 [rows, width]");
  require(gate.ndim() == 2 && gate.dtype() == mx::float32 && gate.shape(0) == x.shape(0), "a gate is float32 [rows, width]");
  require(gate.shape(1) == 1 || gate.shape(1) == x.shape(1), "a gate has one column or as many as what is gated");
  ChainBuilder chain({&x, &gate, residual});
  auto operation = std::make_unique<Gated>(chain.activation(x), chain.activation(gate));
  if (residual) {
    require(residual->dtype() == mx::float32 && residual->shape() == x.shape(), "a residual is float32 like the result");
    operation->residual = chain.activation(*residual);
  }
  operation->job.rows = x.shape(0);
  operation->job.width = x.shape(1);
  operation->job.gate_width = gate.shape(1);
  require(spec.activation >= 0 && spec.activation <= static_cast<int>(Activation::gelu_tanh), "no such activation");
  operation->job.activation = static_cast<Activation>(spec.activation);
  return chain.append(x.shape(), std::move(operation));
}

mx::array make_columns(const mx::array& x, const MlxExtPiece* pieces, int count) {
  require(x.ndim() == 2 && x.dtype() == mx::float32, "columns are chosen from float32 [rows, width]");
  ChainBuilder chain({&x});
  auto operation = std::make_unique<Columns>(chain.activation(x));
  int64_t width = 0;
  for (int i = 0; i < count; i++) {
    const MlxExtPiece& piece = pieces[i];
    require(piece.first >= 0 && piece.count >= 0 && int64_t{piece.first} + piece.count <= x.shape(1), "no such columns");
    operation->pieces.push_back({piece.first, piece.count});
    width += piece.count;
  }
  require(width > 0 && width <= x.shape(1), "at least one column is chosen, and none twice");
  operation->rows = x.shape(0);
  operation->width = x.shape(1);
  return chain.append({x.shape(0), static_cast<int>(width)}, std::move(operation));
}

}  // namespace
}  // namespace kr

extern "C" void* mlx_ext_gated(const MlxExtGated* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_gated(*spec); });
}

extern "C" void* mlx_ext_columns(
    void* x, const MlxExtPiece* pieces, int count, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_columns(kr::array_at(x), pieces, count); });
}
