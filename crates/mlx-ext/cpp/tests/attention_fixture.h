// A model's attention and the sequences it serves, for attention_test.cpp and attention_bench.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention.h"

struct Model {
  int heads;
  int kv_heads;
  int head_dim;
  kr::Float type = kr::Float::f32;
  int window = 0;
  bool traditional = false;
  int rope_dims = -1;  // -1: all
  float scale = 0;     // 0: 1 / sqrt(head_dim)
  float soft_cap = 0;  // 0: none
  bool scales_queries = false;
  bool chunked = false;
  std::vector<float> sinks = {};  // one a head, or none
  std::vector<float> cos = {};
  std::vector<float> sin = {};
  std::vector<float> query_scale = {};

  void complete(int positions) {
    if (rope_dims < 0) rope_dims = head_dim;
    if (scale == 0) scale = 1 / std::sqrt(float(head_dim));
    cos.clear(), sin.clear(), query_scale.clear();
    for (int p = 0; scales_queries && p < positions; ++p) query_scale.push_back(1 + 0.1f * std::log(float(1 + p / 16)));
    for (int p = 0; p < positions; ++p)
      for (int i = 0; i < rope_dims / 2; ++i) {
        double angle = p * std::pow(10000.0, -2.0 * i / rope_dims);
        cos.push_back(float(std::cos(angle)));
        sin.push_back(float(std::sin(angle)));
      }
  }

  const float* query_scale_data() const { return scales_queries ? query_scale.data() : nullptr; }

  const float* sinks_data() const { return sinks.empty() ? nullptr : sinks.data(); }

  int width() const { return (heads + 2 * kv_heads) * head_dim; }

  std::vector<float> random_tokens(int count, unsigned seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> tokens(size_t(count) * size_t(width()));
    for (float& value : tokens) value = normal(random);
    return tokens;
  }

  std::string name() const {
    return std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads of " + std::to_string(head_dim) +
           (type == kr::Float::f16 ? ", f16" : ", f32") + ", window " + std::to_string(window) +
           (sinks.empty() ? "" : ", sinks");
  }
};

// The blocks of some sequences, scattered over a pool that starts as NaN, and the steps on them.
class Server {
 public:
  static constexpr int layers = 2, layer = 1;

  Server(const Model& model, int sequences, int tokens) : model_(model) {
    model_.complete(tokens);
    shape_ = {layers, model.kv_heads, model.head_dim, 32, model.type};
    int each = (tokens + 31) / 32;
    blocks_ = sequences * each;
    std::vector<int32_t> order(static_cast<size_t>(blocks_));
    for (int i = 0; i < blocks_; ++i) order[size_t(i)] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(5));
    for (int s = 0; s < sequences; ++s)
      tables_.emplace_back(order.begin() + s * each, order.begin() + (s + 1) * each);
    size_t bytes = size_t(layers) * size_t(blocks_) * kr::kv_block_bytes(shape_);
    pool_.reset(static_cast<char*>(std::aligned_alloc(64, bytes)));
    std::memset(pool_.get(), 0xff, bytes);
  }

  kr::AttentionJob job() {
    return {shape_,          layer,         model_.heads,      model_.scale,      model_.soft_cap, model_.window,
            model_.traditional, model_.rope_dims, model_.cos.data(), model_.sin.data(), model_.query_scale_data(),
            model_.sinks_data(), qkv_.data(),  out_.data(),      pool_.get(),       blocks_,          rows_.data(),
            int(rows_.size()), true,             model_.chunked};
  }

  const Model& model() const { return model_; }
  const std::vector<int32_t>& table(int sequence) const { return tables_[size_t(sequence)]; }

  std::vector<float> run_alone(const std::vector<float>& prompt, int chunk) {
    return run_together({prompt}, [&] { return chunk; })[0];
  }

  // Runs all prompts to their ends; `next_chunk` says how many tokens a sequence gets in a step.
  template <class NextChunk>
  std::vector<std::vector<float>> run_together(const std::vector<std::vector<float>>& prompts, NextChunk next_chunk) {
    size_t width = size_t(model_.width()), out_width = size_t(model_.heads * model_.head_dim);
    std::vector<std::vector<float>> outs(prompts.size());
    std::vector<size_t> done(prompts.size());
    for (bool more = true; more;) {
      more = false;
      qkv_.clear(), rows_.clear();
      int tokens = 0;
      for (size_t i = 0; i < prompts.size(); ++i) {
        size_t left = prompts[i].size() / width - done[i];
        size_t take = std::min(left, size_t(next_chunk()));
        more = more || left > take;
        const float* first = prompts[i].data() + done[i] * width;
        qkv_.insert(qkv_.end(), first, first + take * width);
        rows_.push_back({tokens, int(take), int(done[i]), tables_[i].data()});
        tokens += int(take);
      }
      out_.assign(size_t(tokens) * out_width, std::nanf(""));
      kr::attention(job());
      for (size_t i = 0; i < prompts.size(); ++i) {
        auto first = out_.begin() + std::ptrdiff_t(size_t(rows_[i].first_token) * out_width);
        outs[i].insert(outs[i].end(), first, first + std::ptrdiff_t(size_t(rows_[i].new_tokens) * out_width));
        done[i] += size_t(rows_[i].new_tokens);
      }
    }
    rows_.clear();
    return outs;
  }

 private:
  Model model_;
  kr::KvShape shape_;
  int blocks_;
  std::vector<std::vector<int32_t>> tables_;
  // Aligned like the real one: vectors must not lie across two lines.
  std::unique_ptr<char, decltype(&std::free)> pool_{nullptr, &std::free};
  std::vector<float> qkv_;
  std::vector<float> out_;
  std::vector<kr::AttentionRow> rows_;
};
