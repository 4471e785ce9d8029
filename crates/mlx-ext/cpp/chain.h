// Runs of our operations that MLX sees as one node of its graph.
//
// MLX hands every node of the CPU backend to another thread, and a small model's step has some hundred and fifty nodes of
// some ten microseconds: waking that thread each time took as long as the arithmetic. So an operation on the yet lazy
// result of another one is put behind it, in the same chain, and the node of the last one computes all it needs.
#pragma once

#include <mlx/array.h>

#include <array>
#include <memory>
#include <vector>

namespace kr {

namespace mx = mlx::core;

// An input of an operation: an earlier value of the same chain, or an array.
class Operand {
 public:
  static Operand value(int index) { return Operand(index, nullptr); }
  static Operand leaf(mx::array array) { return Operand(-1, std::make_shared<mx::array>(std::move(array))); }

  int value_index() const { return value_; }  // -1: an array
  const mx::array& array() const { return *array_; }

  // Its float32 data while the chain runs; `values` are the addresses of the chain's values.
  const float* data(const std::vector<float*>& values) const {
    return array_ ? array_->data<float>() : values[value_];
  }

 private:
  Operand(int value, std::shared_ptr<mx::array> array) : value_(value), array_(std::move(array)) {}

  int value_;
  std::shared_ptr<mx::array> array_;
};

// The inputs of an operation that may be values of its chain; null behind the last one.
using Operands = std::array<const Operand*, 3>;

// What computes one value of a chain: float32 of a known shape.
class Operation {
 public:
  virtual ~Operation() = default;
  // The values it reads, for keeping them as long as they are needed.
  virtual Operands operands() const = 0;
  // Throws if its arrays, which have data by now, are not as it needs them.
  virtual void check() const = 0;
  virtual void run(const std::vector<float*>& values, float* out) const = 0;
};

// Builds one operation on activations, which may be lazy results of others.
class ChainBuilder {
 public:
  // The chain that the first lazy one of `activations` belongs to, or a new one.
  explicit ChainBuilder(const std::vector<const mx::array*>& activations);

  // An activation as operand: a value of the chain where it is one.
  Operand activation(const mx::array& array);
  // An array that is no activation, such as a weight.
  mx::array weight(const mx::array& array);

  // The operation's result, lazy.
  mx::array append(mx::Shape shape, std::unique_ptr<Operation> operation);

 private:
  std::shared_ptr<struct Chain> chain_;
};

// Computes a lazy result on the calling thread, which saves waking MLX's and being woken by it. False, and nothing is done,
// if the array is none of a chain, or if the chain needs something that MLX has to compute first.
bool compute_here(mx::array& array);

// An array that operations read as plain rows; an error if its data are not.
void require_contiguous(const mx::array& array, const char* what);
// The same of those operands that are arrays: values of a chain are plain rows.
void require_contiguous(const Operands& operands, const char* what);

}  // namespace kr
