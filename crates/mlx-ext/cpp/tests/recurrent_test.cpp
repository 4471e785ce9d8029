// The gated delta rule and short convolutions against double precision, and their bit-equality over pieces, neighbours,
// snapshots and instruction sets.
// `cargo xtask test` compiles and runs it on every instruction set that the CPU has, `cargo xtask sanitize` under checkers.
#include "recurrent.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "child_process.h"
#include "cpu.h"

using namespace kr;

namespace {

using Floats = std::vector<float>;

bool brief = false;
int failures = 0;

void check(bool holds, const char* what, int size) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s, case %d\n", what, size);
  failures++;
}

Floats random_floats(std::mt19937& random, size_t count, float scale) {
  std::uniform_real_distribution<float> value(-scale, scale);
  Floats floats(count);
  for (float& x : floats) x = value(random);
  return floats;
}

// A layer, its inputs for some tokens, and where in a state it lies: what is before that must stay as it is.
struct Case {
  static constexpr size_t state_at = 3;

  bool is_delta;
  int tokens;
  GatedDeltaJob delta{};
  ConvolutionJob conv{};
  Floats x, gates, log_rates, biases, weight;

  Case(bool is_delta, int size, int tokens) : is_delta(is_delta), tokens(tokens) {
    std::mt19937 random(size * 2 + is_delta);
    if (is_delta) {
      delta.key_heads = 1 + size % 2;
      delta.value_heads = delta.key_heads * (1 + size % 3);
      delta.key_dim = 1 + size * 5;
      delta.value_dim = 8 + size * 24 % 112;  // whole blocks, narrow ones, and both
      delta.state_at = state_at;
      // Queries and keys have lengths below 1.
      x = random_floats(random, size_t(tokens) * width(), 1.0f / std::sqrt(float(delta.key_dim)));
      gates = random_floats(random, size_t(tokens) * 2 * delta.value_heads, 3);
      log_rates = random_floats(random, delta.value_heads, 2);
      biases = random_floats(random, delta.value_heads, 1);
    } else {
      conv.channels = 1 + size * 37;
      conv.taps = 1 + size % max_taps;
      conv.gated = size % 2 == 0;
      conv.silu = !conv.gated;
      conv.state_at = state_at;
      x = random_floats(random, size_t(tokens) * width(), 1);
      weight = random_floats(random, size_t(conv.taps) * conv.channels, 1);
      biases = random_floats(random, conv.channels, 1);
    }
  }

  int width() const { return is_delta ? delta.width() : conv.width(); }
  int results() const { return is_delta ? delta.value_heads * delta.value_dim : conv.channels; }
  size_t state() const {
    const size_t own = is_delta ? size_t(delta.value_heads) * delta.key_dim * delta.value_dim
                                : size_t(conv.taps - 1) * conv.channels;
    return state_at + own;
  }

  // Of the tokens from `first` on, of as many as the rows have.
  Floats compute(int first, const std::vector<StateRow>& rows) const {
    int count = 0;
    for (const StateRow& row : rows) count += row.new_tokens;
    Floats y(size_t(count) * results());
    if (is_delta) {
      GatedDeltaJob job = delta;
      job.qkv = x.data() + size_t(first) * width();
      job.gates = gates.data() + size_t(first) * 2 * delta.value_heads;
      job.log_rates = log_rates.data();
      job.biases = biases.data();
      job.tokens = count;
      job.rows = rows.data();
      job.row_count = int(rows.size());
      job.y = y.data();
      gated_delta(job);
    } else {
      ConvolutionJob job = conv;
      job.x = x.data() + size_t(first) * width();
      job.weight = weight.data();
      job.bias = biases.data();
      job.rows = rows.data();
      job.row_count = int(rows.size());
      job.y = y.data();
      convolution(job);
    }
    return y;
  }

  // In double precision, of one row of all tokens.
  std::vector<double> expected() const { return is_delta ? expected_delta() : expected_convolution(); }

 private:
  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

  std::vector<double> expected_delta() const {
    const int key_dim = delta.key_dim, value_dim = delta.value_dim, heads = delta.value_heads;
    std::vector<double> all(size_t(tokens) * results());
    for (int head = 0; head < heads; head++) {
      std::vector<double> state(size_t(key_dim) * value_dim);
      const int key_head = head / (heads / delta.key_heads);
      for (int t = 0; t < tokens; t++) {
        const float* query = x.data() + size_t(t) * width() + key_head * key_dim;
        const float* key = query + delta.key_heads * key_dim;
        const float* value = x.data() + size_t(t) * width() + 2 * delta.key_heads * key_dim + head * value_dim;
        const float* gate = gates.data() + size_t(t) * 2 * heads + head;
        const double time = std::log1p(std::exp(double(gate[heads]) + biases[head]));
        const double decay = std::exp(-std::exp(double(log_rates[head])) * time), beta = sigmoid(gate[0]);
        for (double& number : state) number *= decay;
        for (int v = 0; v < value_dim; v++) {
          double known = 0, answer = 0;
          for (int k = 0; k < key_dim; k++) known += state[size_t(k) * value_dim + v] * key[k];
          for (int k = 0; k < key_dim; k++) {
            state[size_t(k) * value_dim + v] += key[k] * beta * (value[v] - known);
            answer += state[size_t(k) * value_dim + v] * query[k];
          }
          all[size_t(t) * results() + head * value_dim + v] = answer;
        }
      }
    }
    return all;
  }

  std::vector<double> expected_convolution() const {
    const int channels = conv.channels;
    std::vector<double> all(size_t(tokens) * channels);
    for (int t = 0; t < tokens; t++) {
      for (int c = 0; c < channels; c++) {
        const auto input = [&](int token) {
          const float* row = x.data() + size_t(token) * width();
          return conv.gated ? double(row[c]) * row[2 * channels + c] : double(row[c]);
        };
        double sum = biases[c];
        for (int tap = 0; tap < conv.taps; tap++) {
          const int token = t + tap + 1 - conv.taps;
          if (token >= 0) sum += weight[size_t(tap) * channels + c] * input(token);
        }
        const double factor = conv.gated ? x[size_t(t) * width() + channels + c] : sigmoid(sum);
        all[size_t(t) * channels + c] = sum * factor;
      }
    }
    return all;
  }
};

StateRow row_of(int first_token, int new_tokens, const Floats* from, Floats& to) {
  return StateRow{first_token, new_tokens, from ? from->data() : nullptr, to.data(), nullptr, 0};
}

bool same_bits(const float* found, const Floats& expected, size_t from) {
  return std::memcmp(found, expected.data() + from, (expected.size() - from) * sizeof(float)) == 0;
}

void check_case(const Case& it, int size) {
  const int tokens = it.tokens, cut = tokens / 3;
  const size_t state_floats = it.state(), width = it.results();
  Floats state(state_floats, 7), first(state_floats, 7), snapshot(state_floats, 7), second(state_floats, 7);
  Floats once_more(state_floats, 7), other(state_floats, 7);
  const Floats whole = it.compute(0, {row_of(0, tokens, nullptr, state)});
  const std::vector<double> expected = it.expected();
  double worst = 0;
  for (size_t i = 0; i < whole.size(); i++) {
    worst = std::max(worst, std::abs(whole[i] - expected[i]) / (1 + std::abs(expected[i])));
  }
  check(worst < 1e-5, "results are those of double precision", size);
  check(std::all_of(state.begin(), state.begin() + Case::state_at, [](float x) { return x == 7; }),
        "nothing before the layer's own state is written", size);

  // In two pieces, with another row behind the first one, and a snapshot on the way.
  StateRow head = row_of(0, 2 * cut, nullptr, first);
  const StateSnapshot taken{cut, snapshot.data()};
  head.snapshots = &taken;
  head.snapshot_count = 1;
  const Floats beside = it.compute(0, {head, row_of(2 * cut, tokens - 2 * cut, nullptr, other)});
  check(std::memcmp(beside.data(), whole.data(), size_t(2) * cut * width * sizeof(float)) == 0, "a piece", size);
  const Floats rest = it.compute(2 * cut, {row_of(0, tokens - 2 * cut, &first, second)});
  check(same_bits(rest.data(), whole, size_t(2) * cut * width), "the next piece", size);
  check(same_bits(second.data(), state, 0), "the state behind pieces", size);
  const Floats again = it.compute(cut, {row_of(0, tokens - cut, &snapshot, once_more)});
  check(same_bits(again.data(), whole, size_t(cut) * width), "what goes on from a snapshot", size);
  check(same_bits(once_more.data(), state, 0), "the state behind a snapshot", size);
}

uint64_t digest_of_all() {
  Digest digest;
  for (int size = 1; size <= (brief ? 4 : 12); size++) {
    for (const bool is_delta : {false, true}) {
      const Case it(is_delta, size, 40);
      Floats state(it.state(), 7);
      const Floats y = it.compute(0, {row_of(0, it.tokens, nullptr, state)});
      digest.add(y.data(), y.size());
      digest.add(state.data(), state.size());
    }
  }
  return digest.value();
}

}  // namespace

int main(int argc, char** argv) {
  brief = argc > 1 && std::strcmp(argv[1], "brief") == 0;
  failures += differing_instruction_sets(digest_of_all);  // first, while this process has no threads
  for (int size = 1; size <= (brief ? 6 : 26); size++) {
    for (const bool is_delta : {false, true}) check_case(Case(is_delta, size, 3 + size * 7 % 60), size);
  }
  std::printf("recurrent, %s: %d failures\n", isa_name(isa()), failures);
  return failures > 0;
}
