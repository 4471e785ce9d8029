// Layers with a state as operations of a chain, and the memory of states.

#include "kernels/recurrent.h"
#include "operations.h"

#include <sys/mman.h>

#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

namespace kr {
namespace {

// States of equal size, each all layers'. Reserved address space: a page costs memory once it is written.
class StatePool {
 public:
  StatePool(size_t floats, int states) : floats_(floats) {
    if (__builtin_mul_overflow(floats, static_cast<size_t>(states) * sizeof(float), &size_)) throw std::bad_alloc();
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<float*>(memory);
  }
  ~StatePool() { munmap(memory_, size_); }
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  size_t floats() const { return floats_; }
  float* state(int index) const { return memory_ + static_cast<size_t>(index) * floats_; }

 private:
  size_t floats_;
  size_t size_;
  float* memory_;
};

// The rows of one step, shared by all of its layers.
struct StateRows {
  std::vector<StateRow> rows;
  std::vector<StateSnapshot> snapshots;
  int tokens;
};

// Both write to states as well as to their results. MLX does not know of that; but what is written is new, and nothing reads
// it before the step has been evaluated.

struct Convolution : Operation {
  Operand x;
  mx::array weight;
  std::optional<mx::array> bias;
  ConvolutionJob job{};  // without the addresses of arrays
  std::shared_ptr<StatePool> pool;
  std::shared_ptr<StateRows> step;

  Convolution(Operand x, mx::array weight) : x(std::move(x)), weight(std::move(weight)) {}

  Operands operands() const override { return {&x}; }

  void check() const override {
    require_contiguous(operands(), "an input of a convolution");
    require_contiguous(weight, "the weight of a convolution");
    if (bias) require_contiguous(*bias, "the bias of a convolution");
  }

  void run(const std::vector<float*>& values, float* out) const override {
    ConvolutionJob now = job;
    now.x = x.data(values);
    now.weight = weight.data<float>();
    now.bias = bias ? bias->data<float>() : nullptr;
    now.y = out;
    convolution(now);
  }
};

struct GatedDelta : Operation {
  Operand qkv, gates;
  mx::array log_rates, biases;
  GatedDeltaJob job{};  // without the addresses of arrays
  std::shared_ptr<StatePool> pool;
  std::shared_ptr<StateRows> step;

  GatedDelta(Operand qkv, Operand gates, mx::array log_rates, mx::array biases)
      : qkv(std::move(qkv)), gates(std::move(gates)), log_rates(std::move(log_rates)), biases(std::move(biases)) {}

  Operands operands() const override { return {&qkv, &gates}; }

  void check() const override {
    require_contiguous(operands(), "an input of a gated delta rule");
    require_contiguous(log_rates, "the rates of a gated delta rule");
    require_contiguous(biases, "the biases of a gated delta rule");
  }

  void run(const std::vector<float*>& values, float* out) const override {
    GatedDeltaJob now = job;
    now.qkv = qkv.data(values);
    now.gates = gates.data(values);
    now.log_rates = log_rates.data<float>();
    now.biases = biases.data<float>();
    now.y = out;
    gated_delta(now);
  }
};

}  // namespace
}  // namespace kr

struct MlxExtStatePool {
  std::shared_ptr<kr::StatePool> pool;
};

struct MlxExtStateStep {
  std::shared_ptr<kr::StatePool> pool;
  std::shared_ptr<kr::StateRows> step;
};

struct MlxExtStateRow {
  int new_tokens;
  int from;  // -1: the sequence begins
  int to;
  int snapshot_count;  // which follow those of the rows before
};

struct MlxExtStateSnapshot {
  int after;
  int to;
};

struct MlxExtConvolution {
  void* x;
  void* weight;
  void* bias;  // null: none
  const MlxExtStateStep* step;
  size_t state_at;
  int gated;
  int silu;
};

struct MlxExtGatedDelta {
  void* qkv;
  void* gates;
  void* log_rates;
  void* biases;
  const MlxExtStateStep* step;
  size_t state_at;
  int key_heads;
  int value_heads;
  int key_dim;
  int value_dim;
};

namespace kr {
namespace {

void require_room(const MlxExtStateStep& step, size_t state_at, int64_t floats) {
  const size_t all = step.pool->floats();
  require(state_at <= all && static_cast<size_t>(floats) <= all - state_at, "a layer's state lies beyond the states");
}

mx::array make_convolution(const MlxExtConvolution& spec) {
  const mx::array& x = array_at(spec.x);
  const mx::array& weight = array_at(spec.weight);
  require(weight.dtype() == mx::float32 && weight.ndim() == 2, "the weight of a convolution is float32 [taps, channels]");
  const int taps = weight.shape(0), channels = weight.shape(1);
  require(taps >= 1 && taps <= max_taps && channels >= 1, "a convolution has 1 to 16 taps and at least one channel");
  require(x.dtype() == mx::float32 && x.ndim() == 2, "the input of a convolution is float32 [tokens, width]");
  require(x.shape(1) == int64_t{channels} * (spec.gated ? 3 : 1), "the input of a convolution has its channels");
  require(x.shape(0) == spec.step->step->tokens, "the step has another number of tokens than its convolution");
  require_room(*spec.step, spec.state_at, int64_t{taps - 1} * channels);
  ChainBuilder chain({&x});
  auto operation = std::make_unique<Convolution>(chain.activation(x), chain.weight(weight));
  if (spec.bias) {
    const mx::array& bias = array_at(spec.bias);
    require(bias.dtype() == mx::float32 && bias.ndim() == 1 && bias.shape(0) == channels, "a bias is float32 [channels]");
    operation->bias = chain.weight(bias);
  }
  operation->pool = spec.step->pool;
  operation->step = spec.step->step;
  ConvolutionJob& job = operation->job;
  job.channels = channels;
  job.taps = taps;
  job.gated = spec.gated != 0;
  job.silu = spec.silu != 0;
  job.rows = operation->step->rows.data();
  job.row_count = static_cast<int>(operation->step->rows.size());
  job.state_at = spec.state_at;
  return chain.append({x.shape(0), channels}, std::move(operation));
}

mx::array make_gated_delta(const MlxExtGatedDelta& spec) {
  const mx::array& qkv = array_at(spec.qkv);
  const mx::array& gates = array_at(spec.gates);
  const mx::array& log_rates = array_at(spec.log_rates);
  const mx::array& biases = array_at(spec.biases);
  const int64_t key_heads = spec.key_heads, value_heads = spec.value_heads;
  const int64_t key_dim = spec.key_dim, value_dim = spec.value_dim;
  require(key_heads >= 1 && value_heads >= 1 && value_heads % key_heads == 0, "heads of values are a multiple of keys'");
  const auto fits = [](int64_t dim) { return dim >= 1 && dim <= max_delta_dim; };
  require(fits(key_dim) && fits(value_dim), "heads have 1 to 1024 components");
  require(qkv.dtype() == mx::float32 && qkv.ndim() == 2, "queries, keys and values are float32 [tokens, width]");
  require(qkv.shape(1) == 2 * key_heads * key_dim + value_heads * value_dim, "queries, keys and values of all heads");
  require(qkv.shape(0) == spec.step->step->tokens, "the step has another number of tokens than its delta rule");
  require(gates.dtype() == mx::float32 && gates.ndim() == 2 && gates.shape(0) == qkv.shape(0) &&
              gates.shape(1) == 2 * value_heads,
          "the gates are float32 [tokens, 2 * heads]");
  for (const mx::array* array : {&log_rates, &biases}) {
    require(array->dtype() == mx::float32 && array->ndim() == 1 && array->shape(0) == value_heads,
            "rates and biases are float32 [heads]");
  }
  require_room(*spec.step, spec.state_at, value_heads * key_dim * value_dim);
  ChainBuilder chain({&qkv, &gates});
  auto operation = std::make_unique<GatedDelta>(
      chain.activation(qkv), chain.activation(gates), chain.weight(log_rates), chain.weight(biases));
  operation->pool = spec.step->pool;
  operation->step = spec.step->step;
  GatedDeltaJob& job = operation->job;
  job.tokens = qkv.shape(0);
  job.key_heads = spec.key_heads;
  job.value_heads = spec.value_heads;
  job.key_dim = spec.key_dim;
  job.value_dim = spec.value_dim;
  job.rows = operation->step->rows.data();
  job.row_count = static_cast<int>(operation->step->rows.size());
  job.state_at = spec.state_at;
  return chain.append({qkv.shape(0), spec.value_heads * spec.value_dim}, std::move(operation));
}

}  // namespace
}  // namespace kr

// Null if there is no memory.
extern "C" MlxExtStatePool* mlx_ext_state_pool_new(size_t floats, int states) noexcept {
  try {
    return new MlxExtStatePool{std::make_shared<kr::StatePool>(floats, states)};
  } catch (...) {
    return nullptr;
  }
}

extern "C" void mlx_ext_state_pool_free(MlxExtStatePool* pool) noexcept { delete pool; }

// The caller has checked that all states are in the pool, that none is written twice or read and written, and that
// snapshots lie within their rows, in order. Null if there is no memory.
extern "C" MlxExtStateStep* mlx_ext_state_step_new(
    const MlxExtStatePool* pool, const MlxExtStateRow* rows, int row_count, const MlxExtStateSnapshot* snapshots,
    int snapshot_count) noexcept {
  try {
    auto step = std::make_shared<kr::StateRows>();
    const kr::StatePool& states = *pool->pool;
    for (int i = 0; i < snapshot_count; i++) {
      step->snapshots.push_back({snapshots[i].after, states.state(snapshots[i].to)});
    }
    const kr::StateSnapshot* own = step->snapshots.data();
    step->tokens = 0;
    for (int i = 0; i < row_count; i++) {
      const MlxExtStateRow& row = rows[i];
      const float* from = row.from < 0 ? nullptr : states.state(row.from);
      step->rows.push_back({step->tokens, row.new_tokens, from, states.state(row.to), own, row.snapshot_count});
      own += row.snapshot_count;
      step->tokens += row.new_tokens;
    }
    return new MlxExtStateStep{pool->pool, std::move(step)};
  } catch (...) {
    return nullptr;
  }
}

extern "C" void mlx_ext_state_step_free(MlxExtStateStep* step) noexcept { delete step; }

extern "C" void* mlx_ext_convolution(const MlxExtConvolution* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_convolution(*spec); });
}

extern "C" void* mlx_ext_gated_delta(const MlxExtGatedDelta* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_gated_delta(*spec); });
}
