// kr::experts as an operation of a chain, and the experts' matrices, which all steps share.

#include "kernels/experts.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "matrix_arrays.h"
#include "operations.h"

namespace kr {
namespace {

// Gates, ups and downs of all experts.
struct ExpertSet {
  std::vector<MatrixArrays> arrays[3];
  int inputs;
  int inner;

  int count() const { return static_cast<int>(arrays[0].size()); }
  int outputs() const { return arrays[2][0].weight.shape(0); }

  std::vector<Matrix> views(int part) const {
    std::vector<Matrix> views;
    for (const MatrixArrays& matrix : arrays[part]) views.push_back(matrix.view());
    return views;
  }
};

struct Experts : Operation {
  Operand x, routing;
  std::optional<Operand> residual;
  std::shared_ptr<ExpertSet> set;
  ExpertsJob job{};  // without addresses

  Experts(Operand x, Operand routing) : x(std::move(x)), routing(std::move(routing)) {}

  std::vector<const Operand*> operands() const override {
    if (residual) return {&x, &routing, &*residual};
    return {&x, &routing};
  }

  void check() const override {
    for (const Operand* operand : operands()) {
      if (operand->value_index() < 0) require_contiguous(operand->array(), "an input of experts");
    }
    for (const auto& part : set->arrays) {
      for (const MatrixArrays& matrix : part) matrix.check();
    }
  }

  void run(const std::vector<float*>& values, float* out) const override {
    const std::vector<Matrix> gates = set->views(0), ups = set->views(1), downs = set->views(2);
    ExpertsJob now = job;
    now.x = x.data(values);
    now.routing = routing.data(values);
    now.gates = gates.data();
    now.ups = ups.data();
    now.downs = downs.data();
    now.residual = residual ? residual->data(values) : nullptr;
    now.y = out;
    experts(now);
  }
};

}  // namespace
}  // namespace kr

struct MlxExtExpertSet {
  std::shared_ptr<kr::ExpertSet> set;
};

struct MlxExtExperts {
  void* x;
  void* routing;
  void* residual;  // null: none
  const MlxExtExpertSet* set;
  int chosen;
  int normalized;
  int gate;  // kr::Gate
  int int8;
};

namespace kr {
namespace {

std::shared_ptr<ExpertSet> make_set(const MlxExtMatrix* matrices, int experts, int inputs, int inner) {
  require(experts > 0, "there are experts");
  auto set = std::make_shared<ExpertSet>();
  set->inputs = inputs;
  set->inner = inner;
  const auto keep = [](const mx::array& array) {
    require(array.is_available(), "an expert's arrays have been evaluated");
    return array;
  };
  for (int part = 0; part < 3; part++) {
    for (int expert = 0; expert < experts; expert++) {
      const MlxExtMatrix& matrix = matrices[part * experts + expert];
      set->arrays[part].push_back(arrays_of(matrix, part == 2 ? inner : inputs, keep));
      const int outputs = set->arrays[part].back().weight.shape(0);
      require(part == 2 || outputs == inner, "gates and ups of experts are alike");
      require(outputs == set->arrays[part][0].weight.shape(0), "experts are alike");
    }
  }
  return set;
}

mx::array make_experts(const MlxExtExperts& spec) {
  const mx::array& x = array_at(spec.x);
  const mx::array& routing = array_at(spec.routing);
  const mx::array* residual = spec.residual ? &array_at(spec.residual) : nullptr;
  const std::shared_ptr<ExpertSet>& set = spec.set->set;
  require(x.ndim() == 2 && x.dtype() == mx::float32 && x.shape(1) == set->inputs, "experts take float32 [rows, inputs]");
  require(routing.dtype() == mx::float32 && routing.shape() == mx::Shape{x.shape(0), set->count()},
          "routing is float32 [rows, experts]");
  require(spec.chosen > 0 && spec.chosen <= set->count(), "as many experts are chosen as there are, at most");
  require(spec.gate > 0 && spec.gate <= static_cast<int>(Gate::swiglu_oai), "no such activation");
  ChainBuilder chain({&x, &routing, residual});
  auto operation = std::make_unique<Experts>(chain.activation(x), chain.activation(routing));
  const mx::Shape shape{x.shape(0), set->outputs()};
  if (residual) {
    require(residual->dtype() == mx::float32 && residual->shape() == shape, "a residual is float32 like the result");
    operation->residual = chain.activation(*residual);
  }
  operation->set = set;
  operation->job.rows = x.shape(0);
  operation->job.experts = set->count();
  operation->job.chosen = spec.chosen;
  operation->job.normalized = spec.normalized != 0;
  operation->job.gate = static_cast<Gate>(spec.gate);
  operation->job.rounding = spec.int8 ? Rounding::int8 : Rounding::int16;
  return chain.append(shape, std::move(operation));
}

}  // namespace
}  // namespace kr

// Of gates, then ups, then downs. Null and a message on failure.
extern "C" MlxExtExpertSet* mlx_ext_expert_set_new(
    const MlxExtMatrix* matrices, int experts, int inputs, int inner, char* message, size_t message_size) noexcept {
  MlxExtExpertSet* made = nullptr;
  kr::done_or_message(message, message_size,
                      [&] { made = new MlxExtExpertSet{kr::make_set(matrices, experts, inputs, inner)}; });
  return made;
}

extern "C" void mlx_ext_expert_set_free(MlxExtExpertSet* set) noexcept { delete set; }

extern "C" void* mlx_ext_experts(const MlxExtExperts* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_experts(*spec); });
}
