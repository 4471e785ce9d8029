// Checks linear() and embedding() against double precision, and that a row's result does not depend on the rows around
// it or on the number of threads. `cargo xtask test` compiles and runs it on every instruction set that the CPU has,
// `cargo xtask sanitize` under checkers.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "child_process.h"
#include "cpu.h"
#include "linear.h"
#include "linear_fixture.h"
#include "pool.h"

namespace {

using kr::Gate;
using kr::LinearJob;
using kr::Rounding;

int failures = 0;
bool brief = false;  // less of everything, for slow checkers and emulators

struct Case {
  std::string name;
  std::vector<TestMatrix> matrices;
  bool normalize = false;
  Gate gate = Gate::none;
  bool residual = false;
  Rounding rounding = Rounding::int16;
};

struct Expected {
  double value;
  double tolerance;
};

// Whether activations are rounded to bytes, which costs accuracy as it should.
bool coarse(const Case& c) { return c.rounding == Rounding::int8; }

double activation(Gate gate, double x) {
  if (gate == Gate::silu) return x / (1 + std::exp(-x));
  if (gate == Gate::swiglu_oai) return std::min(x, 7.0) / (1 + std::exp(-1.702 * std::min(x, 7.0)));
  return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

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
        if (c.gate != Gate::none) {
          Expected up = product(c, c.matrices[1], row, o);
          if (c.gate == Gate::swiglu_oai) up.value = 1 + std::clamp(up.value, -7.0, 7.0);
          const double gate = activation(c.gate, expected.value);
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
      if (c.gate != Gate::none) break;
    }
  }
  if (worst > 1) {
    std::printf("FAIL %s, %d rows: off by %.2f times the tolerance\n", c.name.c_str(), rows, worst);
    failures++;
  }
}

int most_rows() { return brief ? 40 : 150; }

// A case with random inputs.
class Trial {
 public:
  explicit Trial(const Case& c) : case_(c), inputs_(c.matrices[0].matrix.inputs()) {
    for (const TestMatrix& m : c.matrices) {
      matrices_.push_back(m.matrix);
      width_ += c.gate != Gate::none && width_ > 0 ? 0 : m.matrix.outputs();
    }
    x_.resize(static_cast<size_t>(most_rows()) * inputs_);
    norm_weight_.resize(inputs_);
    residual_.resize(static_cast<size_t>(most_rows()) * width_);
    for (size_t i = 0; i < x_.size(); i++) x_[i] = random_float(-2, 2) * (i % 61 == 0 ? 5.0f : 1.0f);
    for (int k = 0; k < inputs_; k++) x_[5 * inputs_ + k] = 0;  // a row of zeros
    for (float& v : norm_weight_) v = random_float(0.5f, 1.5f);
    for (float& v : residual_) v = random_float(-1, 1);
  }

  // The same inputs for another case.
  Trial with(const Case& other) const {
    Trial result = *this;
    result.matrices_.clear();
    for (const TestMatrix& m : other.matrices) result.matrices_.push_back(m.matrix);
    return result;
  }

  std::vector<float> run(int first, int rows) const {
    std::vector<float> y(residual_.begin() + at(first), residual_.begin() + at(first + rows));
    LinearJob job{x_.data() + static_cast<size_t>(first) * inputs_,
                  rows,
                  case_.normalize ? norm_weight_.data() : nullptr,
                  1e-5f,
                  matrices_.data(),
                  static_cast<int>(matrices_.size()),
                  case_.gate,
                  case_.residual ? y.data() : nullptr,  // in place
                  y.data(),
                  case_.rounding};
    kr::linear(job);
    return y;
  }

  void check() const {
    const std::vector<float> all = run(0, most_rows());
    check_against_reference(case_, x_, norm_weight_, residual_, all, most_rows(), width_);
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 13, 33, 64}) {
      for (int first : {0, 4, 40}) {
        if (first + rows > most_rows()) continue;
        const std::vector<float> some = run(first, rows);
        if (std::memcmp(some.data(), all.data() + at(first), some.size() * sizeof(float)) == 0) continue;
        std::printf("FAIL %s: rows %d to %d differ from the same among %d\n", case_.name.c_str(), first, first + rows,
                    most_rows());
        failures++;
      }
    }
  }

 private:
  std::ptrdiff_t at(int row) const { return static_cast<std::ptrdiff_t>(row) * width_; }

  const Case& case_;
  int inputs_;
  int width_ = 0;
  std::vector<Matrix> matrices_;
  std::vector<float> x_, norm_weight_, residual_;
};

void check_embedding(const TestMatrix& m, const char* name) {
  const auto outputs = static_cast<uint32_t>(m.matrix.outputs());
  const uint32_t tokens[] = {0, outputs - 1, outputs / 2, outputs / 2};
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

// Calls take(case) for every way in which a product can be asked for.
template <class Take>
void for_each_case(const Take& take) {
  for (const auto& [type, of] : {std::pair{Float::f32, "f32"}, {Float::f16, "f16"}, {Float::bf16, "bf16"}}) {
    for (Rounding rounding : {Rounding::int16, Rounding::int8}) {
      const std::string how = std::string(of) + (rounding == Rounding::int8 ? " int8" : "");
      for (int bits : {2, 3, 4, 5, 6, 8}) {
        for (int group : {32, 64, 128}) {
          if (brief && type == Float::bf16) continue;  // widened like the others, and only the scales
          if (rounding == Rounding::int8 && bits != 4) continue;
          const std::string name = how + " q" + std::to_string(bits) + " group " + std::to_string(group);
          const auto make = [&, type = type](int outputs, int inputs, bool with_bias) {
            return TestMatrix::quantized(outputs, inputs, bits, group, type, with_bias);
          };
          Case plain{name + " plain", {}, false, Gate::none, false, rounding};
          plain.matrices.push_back(make(83, group * 9, false));
          take(plain);
          Case tiny{name + " tiny", {}, true, Gate::none, false, rounding};
          tiny.matrices.push_back(make(1, group, true));
          take(tiny);
          Case qkv{name + " qkv", {}, true, Gate::none, false, rounding};
          for (int outputs : {64, 24, 17}) qkv.matrices.push_back(make(outputs, group * 11, true));
          take(qkv);
          Case mlp{name + " swiglu", {}, true, Gate::silu, true, rounding};
          for (int i = 0; i < 2; i++) mlp.matrices.push_back(make(75, group * 4, i == 1));
          take(mlp);
        }
      }
      Case mixed{how + " mixed", {}, true, Gate::none, true, rounding};
      mixed.matrices.push_back(TestMatrix::quantized(40, 256, 4, 32, type, false));
      mixed.matrices.push_back(TestMatrix::quantized(33, 256, 8, 64, type, true));
      mixed.matrices.push_back(TestMatrix::quantized(18, 256, 6, 64, type, true));
      mixed.matrices.push_back(TestMatrix::of_floats(21, 256, type, true));
      take(mixed);
    }
    for (int groups : {1, 2, 15, 17, 40}) {
      if (type != Float::f32) continue;  // it has none
      Case micro{"mxfp4, groups " + std::to_string(groups), {}, true, Gate::none, groups == 17};
      for (int outputs : {1, 70}) micro.matrices.push_back(TestMatrix::mxfp4(outputs, 32 * groups, outputs == 70));
      micro.matrices.push_back(TestMatrix::quantized(40, 32 * groups, 4, 32, type, false));
      for (Rounding rounding : {Rounding::int16, Rounding::int8}) {
        micro.rounding = rounding;
        take(micro);
      }
    }
    for (int inputs : {1, 7, 64, 300, 777}) {
      Case dense{std::string(of) + " dense, inputs " + std::to_string(inputs), {}, false, Gate::none, false};
      dense.matrices.push_back(TestMatrix::of_floats(53, inputs, type, false));
      take(dense);
    }
    Case mlp{std::string(of) + " dense geglu", {}, true, Gate::gelu_tanh, true};
    for (int i = 0; i < 2; i++) mlp.matrices.push_back(TestMatrix::of_floats(75, 130, type, i == 0));
    take(mlp);
    mlp.name = std::string(of) + " dense swiglu_oai";
    mlp.gate = Gate::swiglu_oai;
    take(mlp);
  }
  Case large{"q4 large", {}, true, Gate::none, true};
  large.matrices.push_back(TestMatrix::quantized(600, 1152, 4, 32, Float::f16, false));
  take(large);
}

// Whether the same values give the same results with every number of bits, for which they are unpacked each in its way.
void check_same_values(const Case& c) {
  if (c.rounding == Rounding::int8) return;  // which depends on the bits
  Case wide = c;
  for (TestMatrix& m : wide.matrices) {
    if (m.matrix.kind == Matrix::Kind::quantized) m = m.with_8_bits();
  }
  const Trial trial(c);
  for (int rows : {1, 2, most_rows()}) {
    const std::vector<float> y = trial.run(0, rows);
    if (trial.with(wide).run(0, rows) == y) continue;
    std::printf("FAIL %s: %d rows differ from those of the same weights with 8 bits\n", c.name.c_str(), rows);
    failures++;
  }
}

void check_all() {
  for_each_case([](const Case& c) {
    Trial(c).check();
    check_same_values(c);
    check_embedding(c.matrices[0], c.name.c_str());
  });
}

uint64_t digest_of_all() {
  Digest digest;
  for_each_case([&](const Case& c) {
    const std::vector<float> y = Trial(c).run(0, most_rows());
    digest.add(y.data(), y.size());
  });
  return digest.value();
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

void check_threads() {
  const uint64_t one = digest_with("KR_THREADS", "1", digest_of_all);
  failures += one == 0;
  for (const char* threads : {"5", "2"}) {
    if (digest_with("KR_THREADS", threads, digest_of_all) != one) {
      std::printf("FAIL: %s threads give other results than one\n", threads);
      failures++;
    }
    if (brief) break;
  }
}

}  // namespace

int main(int argc, char** argv) {
  brief = argc > 1 && std::strcmp(argv[1], "brief") == 0;
  check_threads();  // first, while this process has none
  failures += differing_instruction_sets(digest_of_all);
  check_pool();
  check_all();
  std::printf("linear, %s: %d failures\n", kr::isa_name(kr::isa()), failures);
  return failures > 0;
}
