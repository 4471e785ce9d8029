#include "floats.h"
#include "linear.h"

namespace kr {

namespace {

// Integers that lie in one stream of bits, the first in the lowest.
void unpack_integers(const uint8_t* packed, int bits, int count, uint8_t* integers) {
  unsigned buffer = 0;
  int available = 0;
  for (int i = 0; i < count; i++) {
    if (available < bits) {
      buffer |= static_cast<unsigned>(*packed++) << available;
      available += 8;
    }
    integers[i] = static_cast<uint8_t>(buffer & ((1u << bits) - 1));
    buffer >>= bits;
    available -= bits;
  }
}

void unpack_mxfp4_row(const QuantizedMatrix& matrix, size_t row, float* y) {
  const size_t groups = matrix.inputs / matrix.group;
  const uint8_t* packed = matrix.packed + row * matrix.inputs / 2;
  const auto* exponents = static_cast<const uint8_t*>(matrix.scales) + row * groups;
  const auto value = [](int bits) { return 0.5f * static_cast<float>(doubled_e2m1[bits] - e2m1_offset); };
  for (size_t g = 0; g < groups; g++) {
    const float scale = e8m0_to_float(exponents[g]);
    for (int i = 0; i < matrix.group; i += 2, packed++) {
      *y++ = scale * value(*packed & 15);
      *y++ = scale * value(*packed >> 4);
    }
  }
}

void unpack_row(const QuantizedMatrix& matrix, size_t row, float* y) {
  const size_t groups = matrix.inputs / matrix.group;
  const size_t group_bytes = static_cast<size_t>(matrix.group) * matrix.bits / 8;
  const uint8_t* packed = matrix.packed + row * groups * group_bytes;
  uint8_t integers[128];
  for (size_t g = 0; g < groups; g++, packed += group_bytes) {
    const float scale = float_at(matrix.scales, matrix.type, row * groups + g);
    const float bias = float_at(matrix.biases, matrix.type, row * groups + g);
    unpack_integers(packed, matrix.bits, matrix.group, integers);
    for (int i = 0; i < matrix.group; i++) *y++ = scale * static_cast<float>(integers[i]) + bias;
  }
}

}  // namespace

void embedding(const Matrix& matrix, const uint32_t* tokens, int count, float* y) {
  const size_t inputs = matrix.inputs();
  for (int i = 0; i < count; i++, y += inputs) {
    if (matrix.kind == Matrix::Kind::quantized) {
      const bool affine = matrix.quantized.packing == Packing::affine;
      (affine ? unpack_row : unpack_mxfp4_row)(matrix.quantized, tokens[i], y);
      continue;
    }
    for (size_t k = 0; k < inputs; k++) y[k] = float_at(matrix.dense.values, matrix.dense.type, tokens[i] * inputs + k);
  }
}

}  // namespace kr
