// Attention against a double-precision reference, and its bit-equality over chunks, neighbours and threads.
// `cargo xtask test` compiles and runs it on every instruction set that the CPU has, `cargo xtask sanitize` under checkers.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention_fixture.h"
#include "child_process.h"
#include "cpu.h"

using namespace kr;

namespace {

int failures = 0;
bool brief = false;  // less of everything, for slow checkers and emulators

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  ++failures;
}

// Rounds to f16 and back, to nearest even.
double through_f16(double value) {
  if (std::fabs(value) > 65504) return std::copysign(65504, value);
  int exponent = std::max(std::ilogb(value == 0 ? 1 : value), -14);
  double step = std::ldexp(1.0, exponent - 10);
  return std::nearbyint(value / step) * step;
}

std::vector<double> rotate(const Model& model, const float* head, int position) {
  std::vector<double> result(head, head + model.head_dim);
  int pairs = model.rope_dims / 2;
  for (int i = 0; i < pairs; ++i) {
    int a = model.traditional ? 2 * i : i, b = model.traditional ? 2 * i + 1 : i + pairs;
    double c = model.cos[size_t(position * pairs + i)], s = model.sin[size_t(position * pairs + i)];
    result[size_t(a)] = head[a] * c - head[b] * s;
    result[size_t(b)] = head[b] * c + head[a] * s;
  }
  return result;
}

// The attention of one whole sequence, from its projections alone.
std::vector<double> reference(const Model& model, const std::vector<float>& qkv) {
  int dim = model.head_dim, group = model.heads / model.kv_heads, width = model.width();
  int tokens = int(qkv.size()) / width;
  auto head_at = [&](int token, int head) { return qkv.data() + size_t(token) * size_t(width) + size_t(head * dim); };
  auto stored = [&](double value) { return model.type == Float::f16 ? through_f16(float(value)) : value; };
  std::vector<double> out(size_t(tokens) * size_t(model.heads * dim));
  for (int head = 0; head < model.heads; ++head) {
    std::vector<std::vector<double>> keys;
    for (int t = 0; t < tokens; ++t) {
      keys.push_back(rotate(model, head_at(t, model.heads + head / group), t));
      for (double& value : keys.back()) value = stored(value);
    }
    for (int t = 0; t < tokens; ++t) {
      std::vector<double> query = rotate(model, head_at(t, head), t);
      int first = model.window > 0 ? std::max(0, t - model.window + 1) : 0;
      if (model.chunked) first = t / model.window * model.window;
      std::vector<double> weights;
      for (int k = first; k <= t; ++k) {
        double score = 0;
        for (int d = 0; d < dim; ++d) score += query[size_t(d)] * keys[size_t(k)][size_t(d)];
        score *= model.scale;
        if (model.scales_queries) score *= model.query_scale[size_t(t)];
        weights.push_back(model.soft_cap > 0 ? model.soft_cap * std::tanh(score / model.soft_cap) : score);
      }
      double largest = *std::max_element(weights.begin(), weights.end()), sum = 0;
      if (!model.sinks.empty()) {
        largest = std::max<double>(largest, model.sinks[size_t(head)]);
        sum = std::exp(model.sinks[size_t(head)] - largest);
      }
      for (double& weight : weights) sum += weight = std::exp(weight - largest);
      double* result = out.data() + size_t(t * model.heads + head) * size_t(dim);
      for (int k = first; k <= t; ++k) {
        const float* value = head_at(k, model.heads + model.kv_heads + head / group);
        for (int d = 0; d < dim; ++d) result[d] += weights[size_t(k - first)] / sum * stored(value[d]);
      }
    }
  }
  return out;
}

double largest_difference(const std::vector<float>& got, const std::vector<double>& want) {
  double largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    double difference = std::fabs(double(got[i]) - want[i]);
    if (!(difference <= largest)) largest = difference;  // also a NaN
  }
  return largest;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_model(const Model& model, const std::vector<int>& lengths) {
  std::string name = model.name();
  std::vector<std::vector<float>> prompts;
  for (int length : lengths) prompts.push_back(model.random_tokens(length, unsigned(length)));

  // Alone, in one chunk: right, and the measure for all else.
  std::vector<std::vector<float>> whole;
  for (auto& prompt : prompts) {
    Server server(model, 1, int(prompt.size()) / model.width());
    whole.push_back(server.run_alone(prompt, 1 << 30));
    // Rounding the rotated keys to f16 can fall to the other side than the reference's.
    double tolerance = model.type == Float::f16 ? 2e-3 : 2e-5;
    double difference = largest_difference(whole.back(), reference(server.model(), prompt));
    expect(difference < tolerance, name + ": off by " + std::to_string(difference));
  }

  const auto& longest = std::max_element(prompts.begin(), prompts.end(), [](auto& a, auto& b) {
    return a.size() < b.size();
  });
  size_t index = size_t(longest - prompts.begin());
  for (int chunk : {1, 7, 32, 100}) {
    Server server(model, 1, int(longest->size()) / model.width());
    expect(same_bits(server.run_alone(*longest, chunk), whole[index]),
           name + ": differs in chunks of " + std::to_string(chunk));
  }

  // Ragged: every step takes another chunk of each sequence.
  Server server(model, int(prompts.size()), *std::max_element(lengths.begin(), lengths.end()));
  std::mt19937 random(7);
  auto outs = server.run_together(prompts, [&] { return random() % 3 == 0 ? 1 : int(random() % 80); });
  for (size_t i = 0; i < prompts.size(); ++i)
    expect(same_bits(outs[i], whole[i]), name + ": differs beside others, row " + std::to_string(i));
}

void check_models() {
  for (Float type : {Float::f32, Float::f16}) {
    check_model({.heads = 9, .kv_heads = 3, .head_dim = 64, .type = type}, {1, 31, 33, brief ? 270 : 700});
    check_model({.heads = 4, .kv_heads = 4, .head_dim = 80, .type = type, .rope_dims = 32}, {64, 90});
    check_model({.heads = 5, .kv_heads = 1, .head_dim = 8, .type = type, .rope_dims = 0}, {256, 1, 40});
    check_model({.heads = 28, .kv_heads = 4, .head_dim = 24, .type = type}, {100, 30});
    for (int window : {20, 256})
      check_model({.heads = 6, .kv_heads = 2, .head_dim = 40, .type = type, .window = window}, {300, 3});
    for (float cap : {0.5f, 30.0f})
      check_model({.heads = 6, .kv_heads = 2, .head_dim = 40, .type = type, .window = 40, .soft_cap = cap}, {270, 3});
    check_model({.heads = 6, .kv_heads = 2, .head_dim = 40, .type = type, .scales_queries = true}, {270, 3});
    // Far below all scores, among them, and far above them.
    check_model({.heads = 6, .kv_heads = 2, .head_dim = 40, .type = type, .window = 40,
                 .sinks = {-200, -1, 0, 0.5f, 3, 200}}, {600, 3});
    check_model({.heads = 2, .kv_heads = 1, .head_dim = 16, .type = type, .soft_cap = 2, .sinks = {1, -1}}, {270});
    if (brief) continue;
    check_model({.heads = 8, .kv_heads = 2, .head_dim = 128, .type = type, .traditional = true}, {5, 257, 290});
    check_model({.heads = 71, .kv_heads = 1, .head_dim = 16, .type = type}, {280});
    check_model({.heads = 8, .kv_heads = 1, .head_dim = 256, .type = type}, {70});
    for (int window : {1, 32, 100, 300})
      for (bool chunked : {false, true})
        check_model({.heads = 6, .kv_heads = 2, .head_dim = 40, .type = type, .window = window, .chunked = chunked},
                    {600, 3, 257});
  }
}

// Scores so far apart that most weights vanish, and a value that f16 can't hold.
void check_extremes() {
  for (Float type : {Float::f32, Float::f16}) {
    Model model = {.heads = 2, .kv_heads = 1, .head_dim = 16, .type = type};
    std::vector<float> prompt = model.random_tokens(300, 3);
    for (int t = 0; t < 300; ++t)
      for (int d = 0; d < 32; ++d) prompt[size_t(t * model.width() + d)] *= 1000;
    prompt[size_t(299 * model.width() + 3 * 16)] = 1e5f;
    Server server(model, 1, 300);
    auto out = server.run_alone(prompt, 300);
    Server slow(model, 1, 300);
    expect(same_bits(slow.run_alone(prompt, 1), out), "extremes: chunks differ");
    auto want = reference(server.model(), prompt);
    // Scores of thousands in float32: their own rounding is what remains.
    out.resize(299 * 32), want.resize(299 * 32);
    double difference = largest_difference(out, want);
    expect(difference < 5e-2, "extremes: off by " + std::to_string(difference));
  }
}

void check_refusals() {
  Model model = {.heads = 2, .kv_heads = 1, .head_dim = 16};
  Server server(model, 1, 32);
  AttentionJob good = server.job();
  auto refuses = [&](auto change) {
    AttentionJob job = good;
    change(job);
    try {
      attention(job);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  expect(!refuses([](AttentionJob&) {}), "an empty step is fine");
  expect(refuses([](AttentionJob& job) { job.shape.block_tokens = 16; }), "blocks of 16 tokens are refused");
  expect(refuses([](AttentionJob& job) { job.shape.head_dim = 12; }), "head_dim 12 is refused");
  expect(refuses([](AttentionJob& job) { job.shape.type = Float::bf16; }), "bf16 is refused");
  expect(refuses([](AttentionJob& job) { job.heads = 0; }), "no heads are refused");
  expect(refuses([](AttentionJob& job) { job.rope_dims = 32; }), "rope_dims beyond head_dim are refused");
}

// One long sequence and some short ones: what is spread over threads differs with their number.
uint64_t digest_of_steps(int longest) {
  Digest digest;
  for (Float type : {Float::f32, Float::f16})
    for (int window : {0, longest / 3}) {
      if (brief && type == Float::f16 && window == 0) continue;
      Model model = {.heads = 3, .kv_heads = 1, .head_dim = 64, .type = type, .window = window};
      if (window > 0) model.sinks = {-1, 0, 2};
      std::vector<std::vector<float>> prompts = {model.random_tokens(longest, 1), model.random_tokens(40, 2)};
      Server server(model, 2, longest);
      int step = 0;
      for (auto& out : server.run_together(prompts, [&] { return ++step % 8 == 0 ? 400 : step % 3 + 1; }))
        digest.add(out.data(), out.size());
    }
  return digest.value();
}

uint64_t digest_of_spread_steps() { return digest_of_steps(brief ? 530 : 3000); }

// Beyond two partitions of keys, and no longer: not every instruction set is fast.
uint64_t digest_of_short_steps() { return digest_of_steps(530); }

}  // namespace

int main(int argc, char** argv) {
  brief = argc > 1 && std::strcmp(argv[1], "brief") == 0;
  // Portable code is as slow as an emulator.
  const char* instructions = std::getenv("KR_ISA");
  if (instructions && std::strcmp(instructions, "portable") == 0) brief = true;
  // First, while this process has no threads.
  const uint64_t one = digest_with("KR_THREADS", "1", digest_of_spread_steps);
  expect(one != 0, "one thread computes");
  for (const char* threads : {"3", "2", "8"}) {
    expect(digest_with("KR_THREADS", threads, digest_of_spread_steps) == one,
           std::string("one thread's results are those of ") + threads);
    if (brief) break;
  }
  failures += differing_instruction_sets(digest_of_short_steps);
  check_models();
  check_extremes();
  check_refusals();
  std::printf("attention, %s: %d failures\n", isa_name(isa()), failures);
  return failures > 0;
}
