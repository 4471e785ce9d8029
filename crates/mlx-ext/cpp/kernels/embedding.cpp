#include "floats.h"
#include "linear.h"

namespace kr {

namespace {

void unpack_row(const QuantizedMatrix& matrix, size_t row, float* y) {
  const size_t groups = matrix.inputs / matrix.group;
  const uint8_t* packed = matrix.packed + row * matrix.inputs * matrix.bits / 8;
  for (size_t g = 0; g < groups; g++) {
    const float scale = float_at(matrix.scales, matrix.type, row * groups + g);
    const float bias = float_at(matrix.biases, matrix.type, row * groups + g);
    if (matrix.bits == 8) {
      for (int i = 0; i < matrix.group; i++) *y++ = scale * static_cast<float>(*packed++) + bias;
    } else {
      for (int i = 0; i < matrix.group; i += 2, packed++) {
        *y++ = scale * static_cast<float>(*packed & 15) + bias;
        *y++ = scale * static_cast<float>(*packed >> 4) + bias;
      }
    }
  }
}

}  // namespace

void embedding(const Matrix& matrix, const uint32_t* tokens, int count, float* y) {
  const size_t inputs = matrix.inputs();
  for (int i = 0; i < count; i++, y += inputs) {
    if (matrix.kind == Matrix::Kind::quantized) {
      unpack_row(matrix.quantized, tokens[i], y);
      continue;
    }
    for (size_t k = 0; k < inputs; k++) y[k] = float_at(matrix.dense.values, matrix.dense.type, tokens[i] * inputs + k);
  }
}

}  // namespace kr
