#include "chain.h"

#include "operations.h"

#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace kr {

// Only ever grows, so that an index means the same value for every node of the chain.
struct Chain {
  struct Value {
    size_t size;  // elements
    std::unique_ptr<Operation> operation;
  };
  std::vector<Value> values;
  // Arrays whose data MLX still has to compute.
  std::vector<mx::array> pending;
};

namespace {

// Memory of values, kept by the thread that runs chains and reused from step to step.
class Arena {
 public:
  ~Arena() {
    for (Buffer& buffer : buffers_) std::free(buffer.memory);
  }

  float* take(size_t size) {
    Buffer* best = nullptr;
    for (Buffer& buffer : buffers_) {
      if (!buffer.taken && buffer.size >= size && (!best || buffer.size < best->size)) best = &buffer;
    }
    if (!best) {
      const size_t bytes = (size * sizeof(float) + 63) / 64 * 64;
      auto* memory = static_cast<float*>(std::aligned_alloc(64, bytes));
      if (!memory) throw std::bad_alloc();
      drop_smaller_than(size);
      best = &buffers_.emplace_back(Buffer{memory, size, false});
    }
    best->taken = true;
    return best->memory;
  }

  void give_back(const float* memory) {
    for (Buffer& buffer : buffers_) {
      if (buffer.memory == memory) buffer.taken = false;
    }
  }

 private:
  struct Buffer {
    float* memory;
    size_t size;
    bool taken;
  };

  // Free ones that were too small for what is asked now: a larger one takes their place.
  void drop_smaller_than(size_t size) {
    std::erase_if(buffers_, [&](Buffer& buffer) {
      const bool drop = !buffer.taken && buffer.size < size;
      if (drop) std::free(buffer.memory);
      return drop;
    });
  }

  std::vector<Buffer> buffers_;
};

// The way to one value of a chain: for each value up to it the index of the operation that reads that last; -1 for those
// that it does not need.
struct Way {
  std::vector<int> last_uses;

  Way(const Chain& chain, int last) : last_uses(last + 1, -1) {
    last_uses[last] = last;
    for (int i = last; i >= 0; i--) {
      if (last_uses[i] < 0) continue;
      for (const Operand* operand : chain.values[i].operation->operands()) {
        if (!operand || operand->value_index() < 0) continue;
        int& use = last_uses[operand->value_index()];
        use = std::max(use, i);
      }
    }
  }

  // Throws if an operation's arrays are not as it needs them.
  void check(const Chain& chain) const {
    for (size_t i = 0; i < last_uses.size(); i++) {
      if (last_uses[i] >= 0) chain.values[i].operation->check();
    }
  }
};

// Computes the value that `way` leads to, into `out`.
void run(const Chain& chain, const Way& way, float* out) {
  static thread_local Arena arena;
  const int last = static_cast<int>(way.last_uses.size()) - 1;
  std::vector<float*> values(last + 1, nullptr);
  for (int i = 0; i <= last; i++) {
    if (way.last_uses[i] < 0) continue;
    const Operation& operation = *chain.values[i].operation;
    values[i] = i == last ? out : arena.take(chain.values[i].size);
    operation.run(values, values[i]);
    for (const Operand* operand : operation.operands()) {
      const int value = operand ? operand->value_index() : -1;
      if (value >= 0 && way.last_uses[value] == i) arena.give_back(values[value]);
    }
  }
}

class ChainValue : public mx::UnaryPrimitive {
 public:
  ChainValue(mx::Stream stream, std::shared_ptr<Chain> chain, int index)
      : UnaryPrimitive(stream), chain_(std::move(chain)), index_(index) {}

  void eval_cpu(const std::vector<mx::array>&, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    Way way(*chain_, index_);
    way.check(*chain_);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [chain = chain_, way = std::move(way), data = out.data<float>()] { run(*chain, way, data); });
  }

  // What eval_cpu does, on the calling thread and at once. False, and nothing is done, if MLX has to compute something
  // before.
  bool compute(mx::array& out) const {
    const auto is_there = [](const mx::array& array) { return array.is_available(); };
    if (!std::all_of(chain_->pending.begin(), chain_->pending.end(), is_there)) return false;
    const Way way(*chain_, index_);
    way.check(*chain_);
    out.set_data(mx::allocator::malloc(out.nbytes()));
    run(*chain_, way, out.data<float>());
    out.set_status(mx::array::Status::available);
    return true;
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("CPU only"); }

  const char* name() const override { return "kr::ChainValue"; }

  const std::shared_ptr<Chain>& chain() const { return chain_; }
  int index() const { return index_; }

 private:
  std::shared_ptr<Chain> chain_;
  int index_;
};

// The chain's value that a lazy array is; null if it is something else, or has been computed.
const ChainValue* lazy_value(const mx::array& array) {
  if (array.status() != mx::array::Status::unscheduled || !array.has_primitive()) return nullptr;
  return dynamic_cast<const ChainValue*>(array.primitive_ptr().get());
}

}  // namespace

ChainBuilder::ChainBuilder(const std::vector<const mx::array*>& activations) {
  for (const mx::array* array : activations) {
    const ChainValue* value = array ? lazy_value(*array) : nullptr;
    if (value && !chain_) chain_ = value->chain();
  }
  if (!chain_) chain_ = std::make_shared<Chain>();
}

Operand ChainBuilder::activation(const mx::array& array) {
  const ChainValue* value = lazy_value(array);
  if (value && value->chain() == chain_) return Operand::value(value->index());
  return Operand::leaf(weight(array));
}

mx::array ChainBuilder::weight(const mx::array& array) {
  if (!array.is_available()) chain_->pending.push_back(array);
  return array;
}

mx::array ChainBuilder::append(mx::Shape shape, std::unique_ptr<Operation> operation) {
  size_t size = 1;
  for (int dim : shape) size *= static_cast<size_t>(dim);
  chain_->values.push_back({size, std::move(operation)});
  const int index = static_cast<int>(chain_->values.size()) - 1;
  auto primitive = std::make_shared<ChainValue>(mx::default_stream(mx::Device::cpu), chain_, index);
  return mx::array(std::move(shape), mx::float32, std::move(primitive), chain_->pending);
}

bool compute_here(mx::array& array) {
  const ChainValue* value = lazy_value(array);
  if (!value || !value->compute(array)) return false;
  array.detach();  // which ends `value`
  return true;
}

void require_contiguous(const mx::array& array, const char* what) {
  if (!array.flags().row_contiguous) throw std::invalid_argument(std::string(what) + " is not contiguous");
}

void require_contiguous(const Operands& operands, const char* what) {
  for (const Operand* operand : operands) {
    if (operand && operand->value_index() < 0) require_contiguous(operand->array(), what);
  }
}

}  // namespace kr

// 1: the array has been computed. 0: it is for MLX to evaluate; with a message if it has failed.
extern "C" int mlx_ext_compute(void* array, char* message, size_t message_size) noexcept {
  bool computed = false;
  kr::done_or_message(message, message_size, [&] { computed = kr::compute_here(*static_cast<mlx::core::array*>(array)); });
  return computed;
}
