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

// Gates, ups and downs of all experts: their arrays, which keep the memory, and views of them. A layer may have hundreds of
// matrices, so they are checked and viewed once, not at each step.
struct ExpertSet {
  std::vector<MatrixArrays> arrays;
  std::vector<Matrix> gates, ups, downs;
  int inputs;
  int inner;

  int count() const { return static_cast<int>(gates.size()); }
  int outputs() const { return downs[0].outputs(); }
};

struct Experts : Operation {
  Operand x, router;
  std::optional<Operand> residual;
  std::optional<mx::array> correction, factors;
  std::shared_ptr<ExpertSet> set;
  ExpertsJob job{};  // without addresses

  Experts(Operand x, Operand router) : x(std::move(x)), router(std::move(router)) {}

  Operands operands() const override {
    if (residual) return {&x, &router, &*residual};
    return {&x, &router};
  }

  void check() const override {
    require_contiguous(operands(), "an input of experts");
    if (correction) require_contiguous(*correction, "a correction of experts' scores");
    if (factors) require_contiguous(*factors, "the factors of experts' weights");
  }

  void run(const std::vector<float*>& values, float* out) const override {
    ExpertsJob now = job;
    now.x = x.data(values);
    now.router = router.data(values);
    now.routing.correction = correction ? correction->data<float>() : nullptr;
    now.routing.factors = factors ? factors->data<float>() : nullptr;
    now.gates = set->gates.data();
    now.ups = set->ups.data();
    now.downs = set->downs.data();
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
  void* router;
  void* correction;  // null: none
  void* factors;     // likewise
  void* residual;    // likewise
  const MlxExtExpertSet* set;
  int chosen;
  int scores;  // kr::Scores
  int groups;
  int chosen_groups;
  int best_of_group;
  int normalized;
  float least_sum;
  float factor;
  int weighs_inputs;
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
  const auto add_part = [&](const MlxExtMatrix* first, int columns, std::vector<Matrix>& views) {
    for (int expert = 0; expert < experts; expert++) {
      set->arrays.push_back(arrays_of(first[expert], columns, keep));
      set->arrays.back().check();
      views.push_back(set->arrays.back().view());
      require(views.back().outputs() == views[0].outputs(), "experts are alike");
    }
  };
  add_part(matrices, inputs, set->gates);
  add_part(matrices + experts, inputs, set->ups);
  add_part(matrices + 2 * experts, inner, set->downs);
  require(set->gates[0].outputs() == inner && set->ups[0].outputs() == inner, "gates and ups of experts are alike");
  return set;
}

// Without the addresses of its correction and its factors.
Routing routing_of(const MlxExtExperts& spec, int experts) {
  require(spec.scores == static_cast<int>(Scores::softmax) || spec.scores == static_cast<int>(Scores::sigmoid),
          "no such scores");
  require(spec.groups > 0 && experts % spec.groups == 0, "groups of experts are of one size");
  require(spec.chosen_groups > 0 && spec.chosen_groups <= spec.groups, "as many groups are chosen as there are, at most");
  const int size = experts / spec.groups;
  require(spec.best_of_group == 1 || (spec.best_of_group == 2 && size > 1), "a group is as good as its best one or two");
  require(spec.chosen > 0 && spec.chosen <= size * spec.chosen_groups, "as many experts are chosen as there are, at most");
  Routing routing{};
  routing.experts = experts;
  routing.chosen = spec.chosen;
  routing.scores = static_cast<Scores>(spec.scores);
  routing.groups = spec.groups;
  routing.chosen_groups = spec.chosen_groups;
  routing.best_of_group = spec.best_of_group;
  routing.normalized = spec.normalized != 0;
  routing.least_sum = spec.least_sum;
  routing.factor = spec.factor;
  return routing;
}

mx::array make_experts(const MlxExtExperts& spec) {
  const mx::array& x = array_at(spec.x);
  const mx::array& router = array_at(spec.router);
  const mx::array* residual = spec.residual ? &array_at(spec.residual) : nullptr;
  const std::shared_ptr<ExpertSet>& set = spec.set->set;
  require(x.ndim() == 2 && x.dtype() == mx::float32 && x.shape(1) == set->inputs, "experts take float32 [rows, inputs]");
  require(router.dtype() == mx::float32 && router.shape() == mx::Shape{x.shape(0), set->count()},
          "a router gives float32 [rows, experts]");
  require(spec.gate > 0 && spec.gate <= static_cast<int>(Gate::swiglu_oai), "no such activation");
  ChainBuilder chain({&x, &router, residual});
  auto operation = std::make_unique<Experts>(chain.activation(x), chain.activation(router));
  const mx::Shape shape{x.shape(0), set->outputs()};
  if (residual) {
    require(residual->dtype() == mx::float32 && residual->shape() == shape, "a residual is float32 like the result");
    operation->residual = chain.activation(*residual);
  }
  operation->set = set;
  operation->job.rows = x.shape(0);
  operation->job.routing = routing_of(spec, set->count());
  operation->job.weighs_inputs = spec.weighs_inputs != 0;
  const auto of_experts = [&](void* given) -> std::optional<mx::array> {
    if (given == nullptr) return std::nullopt;
    const mx::array& array = array_at(given);
    require(array.dtype() == mx::float32 && array.shape() == mx::Shape{set->count()},
            "corrections and factors are float32 [experts]");
    return chain.weight(array);
  };
  operation->correction = of_experts(spec.correction);
  operation->factors = of_experts(spec.factors);
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
