// Weight matrices with random values for tests, and what their values are in double precision.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "matrix.h"

namespace {

using kr::Float;
using kr::Matrix;

inline std::mt19937 random_engine(1);

inline float random_float(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random_engine); }

// Rounds toward zero; the test needs any value of the type, and to know which.
inline uint16_t to_half(float value, Float type) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (type == Float::bf16) return static_cast<uint16_t>(bits >> 16);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127 + 15;
  if (exponent <= 0) {  // subnormal
    return sign | static_cast<uint16_t>(std::fabs(value) * 0x1p24f);
  }
  return sign | static_cast<uint16_t>(exponent << 10 | (bits >> 13 & 0x3ff));
}

inline double from_half(uint16_t half, Float type) {
  const int sign = half & 0x8000 ? -1 : 1;
  if (type == Float::bf16) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  const int exponent = half >> 10 & 31, fraction = half & 0x3ff;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

// Numbers of one float type in a heap block of exactly their size, so that a sanitizer sees a read behind it.
struct Numbers {
  Float type;
  std::vector<char> bytes;

  Numbers(Float float_type, size_t count, float low, float high) : type(float_type) {
    bytes.resize(count * (type == Float::f32 ? 4 : 2));
    bytes.shrink_to_fit();
    for (size_t i = 0; i < count; i++) {
      const float value = random_float(low, high);
      if (type == Float::f32) {
        std::memcpy(&bytes[i * 4], &value, 4);
      } else {
        const uint16_t half = to_half(i % 97 == 0 ? value * 1e-5f : value, type);
        std::memcpy(&bytes[i * 2], &half, 2);
      }
    }
  }

  double at(size_t i) const {
    if (type == Float::f32) {
      float value;
      std::memcpy(&value, &bytes[i * 4], 4);
      return value;
    }
    uint16_t half;
    std::memcpy(&half, &bytes[i * 2], 2);
    return from_half(half, type);
  }
};

struct TestMatrix {
  std::vector<uint8_t> packed, exponents;
  Numbers scales{Float::f32, 0, 0, 0}, biases{Float::f32, 0, 0, 0}, dense{Float::f32, 0, 0, 0};
  std::vector<float> bias;
  Matrix matrix{};

  static TestMatrix quantized(int outputs, int inputs, int bits, int group, Float type, bool with_bias) {
    TestMatrix result;
    result.packed.resize(static_cast<size_t>(outputs) * inputs * bits / 8);
    for (uint8_t& byte : result.packed) byte = static_cast<uint8_t>(random_engine());
    const float step = 16.0f / static_cast<float>(1 << bits);
    result.scales = Numbers(type, static_cast<size_t>(outputs) * inputs / group, 0.005f * step, 0.02f * step);
    result.biases = Numbers(type, static_cast<size_t>(outputs) * inputs / group, -0.15f, -0.05f);
    result.matrix.kind = Matrix::Kind::quantized;
    result.matrix.quantized = {result.packed.data(), result.scales.bytes.data(), result.biases.bytes.data(), type,
                               outputs, inputs, group, bits, kr::Packing::affine};
    result.add_bias(outputs, with_bias);
    return result;
  }

  static TestMatrix mxfp4(int outputs, int inputs, bool with_bias) {
    TestMatrix result;
    result.packed.resize(static_cast<size_t>(outputs) * inputs / 2);
    for (uint8_t& byte : result.packed) byte = static_cast<uint8_t>(random_engine());
    result.exponents.resize(static_cast<size_t>(outputs) * inputs / 32);
    for (uint8_t& byte : result.exponents) byte = static_cast<uint8_t>(127 - 8 + random_engine() % 4);
    result.exponents.back() = 0;
    result.matrix.kind = Matrix::Kind::quantized;
    result.matrix.quantized = {result.packed.data(), result.exponents.data(), nullptr, Float::f32, outputs,
                               inputs, 32, 4, kr::Packing::mxfp4};
    result.add_bias(outputs, with_bias);
    return result;
  }

  static TestMatrix of_floats(int outputs, int inputs, Float type, bool with_bias) {
    TestMatrix result;
    result.dense = Numbers(type, static_cast<size_t>(outputs) * inputs, -0.2f, 0.2f);
    result.matrix.kind = Matrix::Kind::dense;
    result.matrix.dense = {result.dense.bytes.data(), type, outputs, inputs};
    result.add_bias(outputs, with_bias);
    return result;
  }

  // A float of 4 bits: sign, two of exponent, one of mantissa.
  static double e2m1(int bits) {
    const int exponent = bits >> 1 & 3, fraction = bits & 1;
    const double magnitude = exponent ? std::ldexp(2 + fraction, exponent - 2) : fraction * 0.5;
    return bits & 8 ? -magnitude : magnitude;
  }

  // The packed integer.
  int integer(int output, int input) const {
    const kr::QuantizedMatrix& q = matrix.quantized;
    const size_t first_bit = (static_cast<size_t>(output) * q.inputs + input) * q.bits;
    int value = 0;
    for (int i = 0; i < q.bits; i++) {
      const size_t bit = first_bit + i;
      value |= (packed[bit / 8] >> bit % 8 & 1) << i;
    }
    return value;
  }

  // The same values, with 8 bits.
  TestMatrix with_8_bits() const {
    TestMatrix result = *this;
    kr::QuantizedMatrix& q = result.matrix.quantized;
    result.packed.clear();
    for (int o = 0; o < q.outputs; o++) {
      for (int k = 0; k < q.inputs; k++) {
        const int value = integer(o, k);
        // Twice a float of 4 bits, so that it is whole, and so much more that it is not negative.
        const double whole = q.packing == kr::Packing::mxfp4 ? 2 * e2m1(value) + 12 : value;
        result.packed.push_back(static_cast<uint8_t>(whole));
      }
    }
    if (q.packing == kr::Packing::mxfp4) {
      result.scales = result.biases = Numbers(Float::f32, exponents.size(), 0, 0);
      for (size_t i = 0; i < exponents.size(); i++) {
        const auto scale = static_cast<float>(std::ldexp(0.5, exponents[i] - 127)), bias = -12 * scale;
        std::memcpy(&result.scales.bytes[i * 4], &scale, 4);
        std::memcpy(&result.biases.bytes[i * 4], &bias, 4);
      }
      q.packing = kr::Packing::affine;
    }
    q.bits = 8;
    q.packed = result.packed.data();
    q.scales = result.scales.bytes.data();
    q.biases = result.biases.bytes.data();
    if (result.matrix.bias) result.matrix.bias = result.bias.data();
    return result;
  }

  double weight(int output, int input) const {
    if (matrix.kind == Matrix::Kind::dense) {
      return dense.at(static_cast<size_t>(output) * matrix.inputs() + input);
    }
    const kr::QuantizedMatrix& q = matrix.quantized;
    const int value = integer(output, input);
    const size_t group = static_cast<size_t>(output) * (q.inputs / q.group) + input / q.group;
    if (q.packing == kr::Packing::mxfp4) return std::ldexp(e2m1(value), exponents[group] - 127);
    return scales.at(group) * value + biases.at(group);
  }

 private:
  void add_bias(int outputs, bool with_bias) {
    for (int i = 0; with_bias && i < outputs; i++) bias.push_back(random_float(-1, 1));
    matrix.bias = with_bias ? bias.data() : nullptr;
  }
};

}  // namespace
