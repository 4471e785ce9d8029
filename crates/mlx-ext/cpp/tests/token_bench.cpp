// Times the products of one token of SmolLM2-135M (4 bits in groups of 32, a head of 8 bits), one after the other as a step
// computes them: where the time goes that a plain read of the same weights does not take. Build it like linear_test.cpp, with
// -O3 and no sanitizer.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu.h"
#include "linear.h"
#include "linear_fixture.h"
#include "pool.h"

namespace {

using kr::Gate;
using kr::LinearJob;

constexpr int hidden = 576, keys = 192, inner = 1536, vocabulary = 49152, layers = 30;

// The shortest time of many, in microseconds.
template <class Work>
double best_us(int times, const Work& work) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int i = 0; i < times; i++) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  return best;
}

size_t bytes_of(const TestMatrix& m) { return m.packed.size() + m.scales.bytes.size() + m.biases.bytes.size(); }

class Model {
 public:
  Model() {
    for (int i = 0; i < layers; i++) {
      for (int outputs : {hidden, keys, keys, hidden, inner, inner}) add(outputs, hidden, 4);
      add(hidden, inner, 4);
    }
    add(vocabulary, hidden, 8);
    for (float& value : x_) value = random_float(-2, 2);
  }

  size_t bytes() const {
    size_t sum = 0;
    for (const TestMatrix& m : matrices_) sum += bytes_of(m);
    return sum;
  }

  const std::vector<TestMatrix>& matrices() const { return matrices_; }
  size_t products() const { return size_t{layers} * 4 + 1; }

  // `same`: with the weights of one layer for all of them, which stay in the caches.
  void compute_layers(bool same) {
    for (int i = 0; i < layers; i++) {
      const kr::Matrix* m = views_.data() + (same ? 0 : i * size_t{7});
      run(x_, true, m, 3, Gate::none, nullptr, qkv_);
      run(qkv_, false, m + 3, 1, Gate::none, x_.data(), attended_);
      run(attended_, true, m + 4, 2, Gate::silu, nullptr, inner_);
      run(inner_, false, m + 6, 1, Gate::none, attended_.data(), attended_);
    }
  }

  void compute_head() { run(x_, true, &views_.back(), 1, Gate::none, nullptr, logits_); }

 private:
  void add(int outputs, int inputs, int bits) {
    matrices_.push_back(TestMatrix::quantized(outputs, inputs, bits, 32, Float::f16, false));
    views_.push_back(matrices_.back().matrix);
  }

  void run(const std::vector<float>& x, bool normalized, const kr::Matrix* m, int count, Gate gate, const float* residual,
           std::vector<float>& y) {
    const float* norm = normalized ? norm_.data() : nullptr;
    kr::linear({x.data(), 1, norm, 1e-5f, m, count, gate, residual, y.data(), kr::Rounding::int16});
  }

  std::vector<TestMatrix> matrices_;
  std::vector<kr::Matrix> views_;
  std::vector<float> x_ = std::vector<float>(hidden), norm_ = std::vector<float>(hidden, 1.0f),
                     qkv_ = std::vector<float>(hidden + 2 * keys), attended_ = std::vector<float>(hidden),
                     inner_ = std::vector<float>(inner), logits_ = std::vector<float>(vocabulary);
};

// Reads all weights with all threads, each some of every matrix.
void read_all(const Model& model) {
  typedef uint64_t Words __attribute__((vector_size(64)));
  static std::atomic<uint64_t> sink;
  constexpr size_t part = 32 * 1024;
  for (const TestMatrix& m : model.matrices()) {
    const size_t bytes = m.packed.size();
    kr::Pool::shared().run(static_cast<int>(bytes / part), [&](int i) {
      Words sums[4] = {};
      for (size_t at = i * part; at < (i + 1) * part; at += sizeof sums) {
        Words words[4];
        std::memcpy(words, m.packed.data() + at, sizeof words);
        for (int j = 0; j < 4; j++) sums[j] += words[j];
      }
      const Words sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      for (int lane = 0; lane < 8; lane++) sink += sum[lane];
    });
  }
}

}  // namespace

int main() {
  Model model;
  const double bytes = static_cast<double>(model.bytes());
  std::printf("%s, %d threads, %.1f MB of weights\n", kr::isa_name(kr::isa()), kr::Pool::shared().threads(), bytes / 1e6);
  const double token = best_us(100, [&] {
    model.compute_layers(false);
    model.compute_head();
  });
  std::printf("a token: %.0f us, %.1f GB/s\n", token, bytes / token / 1e3);
  size_t packed = 0;
  for (const TestMatrix& m : model.matrices()) packed += m.packed.size();
  const double read = best_us(40, [&] { read_all(model); });
  std::printf("a plain read, matrix after matrix: %.1f GB/s\n", static_cast<double>(packed) / read / 1e3);
  const double cached = best_us(100, [&] { model.compute_layers(true); });
  const double all_layers = best_us(100, [&] { model.compute_layers(false); });
  std::printf("the layers: %.0f us; with the weights of one for all: %.0f us\n", all_layers, cached);
  const double pool = best_us(40, [&] {
    for (size_t i = 0; i < model.products(); i++) kr::Pool::shared().run(32, [](int) {});
  });
  std::printf("as many jobs of the pool without work: %.0f us\n", pool);
  return 0;
}
