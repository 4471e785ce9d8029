// Checks linear() and embedding() against double precision, and that a row's result does not depend on the rows around
// it or on the number of threads. From crates/mlx-ext/cpp, on x86-64:
//
//   c="-O2 -g -std=c++20 -Wall -Wextra -ffp-contract=off -fsanitize=address,undefined"; v="-mavx2 -mfma -mf16c"
//   w="$v -mavx512f -mavx512bw -mavx512vl -mavx512vnni"; d=/tmp/linear_test; mkdir -p $d
//   for f in cpu pool tile_kernels prepared_rows linear embedding linear_portable; do
//     g++ $c -c kernels/$f.cpp -o $d/$f.o; done
//   g++ $c $v -c kernels/linear_avx2.cpp -o $d/avx2.o && g++ $c $w -c kernels/linear_avx512.cpp -o $d/avx512.o
//   g++ $c tests/linear_test.cpp $d/*.o -pthread -o $d/test && $d/test
//
// KR_ISA=portable checks that instruction set. The program runs itself again with other numbers of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../kernels/cpu.h"
#include "../kernels/linear.h"
#include "../kernels/pool.h"

namespace {

using kr::Float;
using kr::LinearJob;
using kr::Matrix;
using kr::Rounding;

int failures = 0;
uint64_t digest = 1469598103934665603u;  // of all results, to compare processes

std::mt19937 random_engine(1);

float random_float(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random_engine); }

// Rounds toward zero; the test needs any value of the type, and to know which.
uint16_t to_half(float value, Float type) {
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

double from_half(uint16_t half, Float type) {
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
  std::vector<uint8_t> packed;
  Numbers scales{Float::f32, 0, 0, 0}, biases{Float::f32, 0, 0, 0}, dense{Float::f32, 0, 0, 0};
  std::vector<float> bias;
  Matrix matrix{};

  static TestMatrix quantized(int outputs, int inputs, int bits, int group, Float type, bool with_bias) {
    TestMatrix result;
    result.packed.resize(static_cast<size_t>(outputs) * inputs * bits / 8);
    for (uint8_t& byte : result.packed) byte = static_cast<uint8_t>(random_engine());
    const float step = bits == 4 ? 1.0f : 1.0f / 16;
    result.scales = Numbers(type, static_cast<size_t>(outputs) * inputs / group, 0.005f * step, 0.02f * step);
    result.biases = Numbers(type, static_cast<size_t>(outputs) * inputs / group, -0.15f, -0.05f);
    result.matrix.kind = Matrix::Kind::quantized;
    result.matrix.quantized = {result.packed.data(), result.scales.bytes.data(), result.biases.bytes.data(), type,
                               outputs, inputs, group, bits};
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

  double weight(int output, int input) const {
    if (matrix.kind == Matrix::Kind::dense) {
      return dense.at(static_cast<size_t>(output) * matrix.inputs() + input);
    }
    const kr::QuantizedMatrix& q = matrix.quantized;
    const size_t at = static_cast<size_t>(output) * q.inputs + input;
    const int value = q.bits == 8 ? packed[at] : packed[at / 2] >> (at % 2 * 4) & 15;
    const size_t group = static_cast<size_t>(output) * (q.inputs / q.group) + input / q.group;
    return scales.at(group) * value + biases.at(group);
  }

 private:
  void add_bias(int outputs, bool with_bias) {
    for (int i = 0; with_bias && i < outputs; i++) bias.push_back(random_float(-1, 1));
    matrix.bias = with_bias ? bias.data() : nullptr;
  }
};

struct Case {
  std::string name;
  std::vector<TestMatrix> matrices;
  bool normalize = false;
  bool swiglu = false;
  bool residual = false;
  Rounding rounding = Rounding::int16;
};

struct Expected {
  double value;
  double tolerance;
};

// Whether activations are rounded to bytes, which costs accuracy as it should.
bool coarse(const Case& c) { return c.rounding == Rounding::int8; }

// One output element of the product in double precision, and by how much float32 may miss it.
Expected product(const Case& c, const TestMatrix& m, const std::vector<double>& x, int output) {
  const int inputs = m.matrix.inputs();
  double sum = 0, sizes = 0;
  for (int k = 0; k < inputs; k++) {
    const double term = m.weight(output, k) * x[k];
    sum += term;
    sizes += std::fabs(term);
  }
  double tolerance = sizes * 1e-6 + 1e-5;
  if (m.matrix.kind == Matrix::Kind::quantized) {
    // Half a step of the activations of the largest group, for every weight, of which most cancel.
    const double largest = std::fabs(*std::max_element(
        x.begin(), x.end(), [](double a, double b) { return std::fabs(a) < std::fabs(b); }));
    tolerance += largest / (coarse(c) ? 127 : 32767) * 0.5 * 0.2 * 4 * std::sqrt(inputs);
    // The weights' integers and their bias each are larger than the weight.
    tolerance += 2e-6 * largest * std::sqrt(inputs);
  }
  if (!m.bias.empty()) sum += m.bias[output];
  return {sum, tolerance};
}

void check_against_reference(const Case& c, const std::vector<float>& x, const std::vector<float>& norm_weight,
                             const std::vector<float>& residual, const std::vector<float>& y, int rows, int width) {
  const int inputs = c.matrices[0].matrix.inputs();
  double worst = 0;
  for (int r = 0; r < rows; r += 1 + rows / 5) {
    const auto first = x.begin() + static_cast<size_t>(r) * inputs;
    std::vector<double> row(first, first + inputs);
    if (c.normalize) {
      double squares = 0;
      for (double v : row) squares += v * v;
      for (int k = 0; k < inputs; k++) row[k] *= norm_weight[k] / std::sqrt(squares / inputs + 1e-5);
    }
    int column = 0;
    for (const TestMatrix& m : c.matrices) {
      for (int o = 0; o < m.matrix.outputs(); o++) {
        Expected expected = product(c, m, row, o);
        if (c.swiglu) {
          const Expected up = product(c, c.matrices[1], row, o);
          const double gate = expected.value / (1 + std::exp(-expected.value));
          expected = {gate * up.value, std::fabs(gate) * up.tolerance +
                                           1.1 * (std::fabs(up.value) + up.tolerance) * expected.tolerance +
                                           1e-6 * std::fabs(gate * up.value)};
        }
        const size_t at = static_cast<size_t>(r) * width + column + o;
        if (c.residual) expected.value += residual[at];
        const double miss = std::fabs(y[at] - expected.value) / expected.tolerance;
        worst = std::max(worst, std::isfinite(miss) ? miss : 1e9);
      }
      column += m.matrix.outputs();
      if (c.swiglu) break;
    }
  }
  if (worst > 1) {
    std::printf("FAIL %s, %d rows: off by %.2f times the tolerance\n", c.name.c_str(), rows, worst);
    failures++;
  }
}

void check(const Case& c) {
  const int most_rows = 150;
  const int inputs = c.matrices[0].matrix.inputs();
  int width = 0;
  std::vector<Matrix> matrices;
  for (const TestMatrix& m : c.matrices) {
    matrices.push_back(m.matrix);
    width += c.swiglu && width > 0 ? 0 : m.matrix.outputs();
  }
  std::vector<float> x(static_cast<size_t>(most_rows) * inputs), norm_weight(inputs);
  std::vector<float> residual(static_cast<size_t>(most_rows) * width);
  for (size_t i = 0; i < x.size(); i++) x[i] = random_float(-2, 2) * (i % 61 == 0 ? 5.0f : 1.0f);
  for (int k = 0; k < inputs; k++) x[5 * inputs + k] = 0;  // a row of zeros
  for (float& v : norm_weight) v = random_float(0.5f, 1.5f);
  for (float& v : residual) v = random_float(-1, 1);

  const auto run = [&](int first, int rows) {
    std::vector<float> y(residual.begin() + static_cast<size_t>(first) * width,
                         residual.begin() + static_cast<size_t>(first + rows) * width);
    LinearJob job{x.data() + static_cast<size_t>(first) * inputs,
                  rows,
                  c.normalize ? norm_weight.data() : nullptr,
                  1e-5f,
                  matrices.data(),
                  static_cast<int>(matrices.size()),
                  c.swiglu,
                  c.residual ? y.data() : nullptr,  // in place
                  y.data(),
                  c.rounding};
    kr::linear(job);
    return y;
  };

  const std::vector<float> all = run(0, most_rows);
  check_against_reference(c, x, norm_weight, residual, all, most_rows, width);
  for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 13, 33, 64}) {
    for (int first : {0, 4, 40}) {
      const std::vector<float> some = run(first, rows);
      if (std::memcmp(some.data(), all.data() + static_cast<size_t>(first) * width, some.size() * sizeof(float)) != 0) {
        std::printf("FAIL %s: rows %d to %d differ from the same among %d\n", c.name.c_str(), first, first + rows,
                    most_rows);
        failures++;
      }
    }
  }
  for (float v : all) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    digest = (digest ^ bits) * 1099511628211u;
  }
}

void check_embedding(const TestMatrix& m, const char* name) {
  const uint32_t tokens[] = {0, static_cast<uint32_t>(m.matrix.outputs() - 1), 3, 3};
  const int inputs = m.matrix.inputs();
  std::vector<float> y(4 * static_cast<size_t>(inputs));
  kr::embedding(m.matrix, tokens, 4, y.data());
  for (int i = 0; i < 4; i++) {
    for (int k = 0; k < inputs; k++) {
      const double expected = m.weight(static_cast<int>(tokens[i]), k);
      if (!(std::fabs(y[static_cast<size_t>(i) * inputs + k] - expected) <= 1e-6)) {
        std::printf("FAIL embedding, %s: row %d, input %d\n", name, i, k);
        failures++;
        return;
      }
    }
  }
}

void check_all() {
  const Float types[] = {Float::f32, Float::f16, Float::bf16};
  const char* type_names[] = {"f32", "f16", "bf16"};
  for (int t = 0; t < 3; t++) {
    const Float type = types[t];
    const std::string of = type_names[t];
    for (Rounding rounding : {Rounding::int16, Rounding::int8}) {
      const std::string how = of + (rounding == Rounding::int8 ? " int8" : "");
      for (int bits : {4, 8}) {
        for (int group : {32, 64, 128}) {
          const std::string name = how + " q" + std::to_string(bits) + " group " + std::to_string(group);
          const auto make = [&](int outputs, int inputs, bool with_bias) {
            return TestMatrix::quantized(outputs, inputs, bits, group, type, with_bias);
          };
          Case plain{name + " plain", {}, false, false, false, rounding};
          plain.matrices.push_back(make(83, group * 9, false));
          check(plain);
          Case tiny{name + " tiny", {}, true, false, false, rounding};
          tiny.matrices.push_back(make(1, group, true));
          check(tiny);
          Case qkv{name + " qkv", {}, true, false, false, rounding};
          for (int outputs : {64, 24, 17}) qkv.matrices.push_back(make(outputs, group * 11, true));
          check(qkv);
          Case mlp{name + " swiglu", {}, true, true, true, rounding};
          for (int i = 0; i < 2; i++) mlp.matrices.push_back(make(75, group * 4, i == 1));
          check(mlp);
          check_embedding(plain.matrices[0], name.c_str());
        }
      }
      Case mixed{how + " mixed", {}, true, false, true, rounding};
      mixed.matrices.push_back(TestMatrix::quantized(40, 256, 4, 32, type, false));
      mixed.matrices.push_back(TestMatrix::quantized(33, 256, 8, 64, type, true));
      mixed.matrices.push_back(TestMatrix::of_floats(21, 256, type, true));
      check(mixed);
    }
    for (int inputs : {1, 7, 64, 300, 777}) {
      Case dense{of + " dense, inputs " + std::to_string(inputs), {}, false, false, false};
      dense.matrices.push_back(TestMatrix::of_floats(53, inputs, type, false));
      check(dense);
      check_embedding(dense.matrices[0], dense.name.c_str());
    }
    Case mlp{of + " dense swiglu", {}, true, true, true};
    for (int i = 0; i < 2; i++) mlp.matrices.push_back(TestMatrix::of_floats(75, 130, type, i == 0));
    check(mlp);
  }
  Case large{"q4 large", {}, true, false, true};
  large.matrices.push_back(TestMatrix::quantized(600, 1152, 4, 32, Float::f16, false));
  check(large);
}

void check_pool() {
  for (int count : {0, 1, 2, 7, 1000}) {
    for (int again = 0; again < 200; again++) {
      std::vector<int> calls(count, 0);
      kr::Pool::shared().run(count, [&](int i) { calls[i]++; });
      if (std::count(calls.begin(), calls.end(), 1) != count) {
        std::printf("FAIL pool: not every one of %d tasks ran once\n", count);
        failures++;
      }
    }
  }
}

// Runs this program with another number of threads and returns the digest that it prints.
std::string digest_with_threads(const char* program, const char* threads) {
  const std::string command = std::string("KR_THREADS=") + threads + " '" + program + "' digest";
  FILE* output = popen(command.c_str(), "r");
  if (!output) return "";
  char line[64] = "";
  if (!std::fgets(line, sizeof line, output)) line[0] = 0;
  return pclose(output) == 0 ? line : "";
}

}  // namespace

int main(int argc, char** argv) {
  check_pool();
  check_all();
  char own[64];
  std::snprintf(own, sizeof own, "%016llx\n", static_cast<unsigned long long>(digest));
  if (argc > 1) {
    std::fputs(own, stdout);
    return failures > 0;
  }
  std::printf("%s, %d threads: %d failures\n", kr::isa_name(kr::isa()), kr::Pool::shared().threads(), failures);
  for (const char* threads : {"1", "2", "5"}) {
    if (digest_with_threads(argv[0], threads) != own) {
      std::printf("FAIL: %s threads give other results\n", threads);
      failures++;
    }
  }
  return failures > 0;
}
