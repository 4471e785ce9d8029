// The arrays of a weight matrix, checked.
#pragma once

#include <optional>

#include "kernels/matrix.h"
#include "operations.h"

// A matrix, as the Rust side describes it; arrays are contexts of mlx-c's mlx_array, null where there is none.
struct MlxExtMatrix {
  void* weight;
  void* scales;  // null: a dense matrix
  void* biases;  // null of a quantized matrix: it is packed as mxfp4
  void* bias;
  int group;
  int bits;
};

namespace kr {
namespace {

// A matrix's arrays.
struct MatrixArrays {
  mx::array weight;
  std::optional<mx::array> scales, biases, bias;
  int group = 0;
  int bits = 0;

  void check() const {
    require_contiguous(weight, "a weight matrix");
    if (scales) require_contiguous(*scales, "a matrix of scales");
    if (biases) require_contiguous(*biases, "a matrix of biases");
    if (bias) require_contiguous(*bias, "the bias of a product");
  }

  Matrix view() const {
    Matrix matrix{};
    if (scales) {
      const int inputs = static_cast<int>(int64_t{weight.shape(1)} * 32 / bits);
      matrix.kind = Matrix::Kind::quantized;
      matrix.quantized = {weight.data<uint8_t>(),
                          scales->data<void>(),
                          biases ? biases->data<void>() : nullptr,
                          biases ? float_type(*scales) : Float::f32,
                          weight.shape(0),
                          inputs,
                          group,
                          bits,
                          biases ? Packing::affine : Packing::mxfp4};
    } else {
      matrix.kind = Matrix::Kind::dense;
      matrix.dense = {weight.data<void>(), float_type(weight), weight.shape(0), weight.shape(1)};
    }
    matrix.bias = bias ? bias->data<float>() : nullptr;
    return matrix;
  }
};

// The arrays of a matrix that meets inputs of `columns` values. `keep` takes each of them.
template <class Keep>
MatrixArrays arrays_of(const MlxExtMatrix& matrix, int columns, Keep keep) {
  const mx::array& weight = array_at(matrix.weight);
  require(weight.ndim() == 2, "a weight matrix has two axes");
  MatrixArrays arrays{keep(weight), {}, {}, {}, matrix.group, matrix.bits};
  if (matrix.scales) {
    const int bits = matrix.bits;
    require((bits >= 2 && bits <= 6) || bits == 8, "a quantized matrix has 2, 3, 4, 5, 6 or 8 bits");
    require(matrix.group == 32 || matrix.group == 64 || matrix.group == 128, "groups are of 32, 64 or 128");
    require(weight.dtype() == mx::uint32, "a quantized matrix is packed in uint32");
    const mx::Shape groups{weight.shape(0), columns / matrix.group};
    require(columns % matrix.group == 0 && int64_t{weight.shape(1)} * 32 == int64_t{columns} * matrix.bits,
            "a quantized matrix and its input differ in length");
    const mx::array& scales = array_at(matrix.scales);
    require(scales.shape() == groups, "a quantized matrix has one scale a group");
    arrays.scales = keep(scales);
    if (matrix.biases) {
      const mx::array& biases = array_at(matrix.biases);
      require(biases.shape() == groups, "a quantized matrix has one bias a group");
      require(scales.dtype() == biases.dtype(), "scales and biases differ in type");
      float_type(scales);
      arrays.biases = keep(biases);
    } else {
      require(bits == 4 && matrix.group == 32, "mxfp4 has 4 bits, and groups of 32");
      require(scales.dtype() == mx::uint8, "scales of mxfp4 are uint8");
    }
  } else {
    require(weight.shape(1) == columns, "a matrix and its input differ in length");
    float_type(weight);
  }
  if (matrix.bias) {
    const mx::array& bias = array_at(matrix.bias);
    require(bias.dtype() == mx::float32 && bias.shape() == mx::Shape{weight.shape(0)}, "a bias is float32, one an output");
    arrays.bias = keep(bias);
  }
  return arrays;
}

}  // namespace
}  // namespace kr
