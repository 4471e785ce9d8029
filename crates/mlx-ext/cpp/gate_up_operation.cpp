// kr::gate_up as an operation of a chain.

#include "kernels/gate_up.h"
#include "operations.h"

#include <memory>
#include <utility>
#include <vector>

namespace kr {
namespace {

struct GateUp : Operation {
  Operand x;
  GateUpJob job{};  // without the addresses of arrays

  explicit GateUp(Operand x) : x(std::move(x)) {}

  Operands operands() const override { return {&x}; }

  void check() const override {
    require_contiguous(operands(), "the input of a gate");
  }

  void run(const std::vector<float*>& values, float* out) const override {
    GateUpJob complete = job;
    complete.x = x.data(values);
    complete.y = out;
    gate_up(complete);
  }
};

mx::array make_gate_up(const mx::array& x, int gate) {
  require(x.ndim() == 2 && x.dtype() == mx::float32, "the input of a gate is float32 [rows, gate and up]");
  require(x.shape(1) % 2 == 0, "gate and up differ in length");
  require(gate > 0 && gate <= static_cast<int>(Gate::swiglu_oai), "no such activation");
  ChainBuilder chain({&x});
  auto operation = std::make_unique<GateUp>(chain.activation(x));
  operation->job.rows = x.shape(0);
  operation->job.width = x.shape(1) / 2;
  operation->job.gate = static_cast<Gate>(gate);
  return chain.append({x.shape(0), x.shape(1) / 2}, std::move(operation));
}

}  // namespace
}  // namespace kr

extern "C" void* mlx_ext_gate_up(void* x, int gate, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_gate_up(kr::array_at(x), gate); });
}
