// Weight matrices as they are stored, [outputs, inputs], row-major. Views: nothing here owns memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kr {

enum class Float { f32, f16, bf16 };

enum class Packing {
  affine,  // value = scale * integer + bias, one scale and bias for each group of inputs of an output
  mxfp4,   // value = scale * e2m1, in groups of 32; scales are powers of two, stored as their exponents' bytes (e8m0)
};

// Weights that MLX has packed.
struct QuantizedMatrix {
  const uint8_t* packed;  // [outputs, inputs * bits / 8]; the first input in the lowest bits
  const void* scales;     // [outputs, inputs / group]
  const void* biases;     // like scales; null if not affine
  Float type;             // of affine scales and biases
  int outputs;
  int inputs;
  int group;  // 32, 64 or 128
  int bits;   // 2, 3, 4, 5, 6 or 8
  Packing packing;
};

struct DenseMatrix {
  const void* values;  // [outputs, inputs]
  Float type;
  int outputs;
  int inputs;
};

struct Matrix {
  enum class Kind { quantized, dense } kind;
  union {
    QuantizedMatrix quantized;
    DenseMatrix dense;
  };
  const float* bias;  // [outputs], or null

  int outputs() const { return kind == Kind::quantized ? quantized.outputs : dense.outputs; }
  int inputs() const { return kind == Kind::quantized ? quantized.inputs : dense.inputs; }
};

}  // namespace kr
