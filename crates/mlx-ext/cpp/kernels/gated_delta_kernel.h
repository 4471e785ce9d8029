// The gated delta rule, for any vector type.
//
// A task has one head of one row, or some of its blocks: a block is delta_lanes components of the head's values (the last
// may have fewer) and their lines of the state, one for each component of keys. It stays in the L1 cache while tokens go
// through it, one after the other: chunks of them that are computed with products of matrices would need fewer reads, but
// then a token's sums would depend on where its chunk begins.
#pragma once

#include <algorithm>
#include <cstring>

#include "recurrent_kernels.h"
#include "snapshots.h"

namespace kr {
namespace {

// What a block has for a key: the sum over its lines, in order.
template <class Vec>
KR_INLINE void recall(const float* state, const float* key, int key_dim, typename Vec::Floats* known) {
  constexpr int vectors = delta_lanes / Vec::lanes;
  for (int v = 0; v < vectors; v++) known[v] = Vec::zero();
  for (int i = 0; i < key_dim; i++, state += delta_lanes) {
    const auto part = Vec::splat(key[i]);
    for (int v = 0; v < vectors; v++) known[v] = Vec::fma(Vec::load(state + v * Vec::lanes), part, known[v]);
  }
}

// One token's part in a block.
struct DeltaToken {
  const float *query, *key;
  float decay, beta;
};

// The block `from` becomes `to`, which may be the same: it fades, and learns `change` for the token's key. On the way it
// answers the token's query, and recalls what it has for the next token's key, if there is one.
template <class Vec, bool has_next>
KR_INLINE void learn(const DeltaToken& token, const float* next_key, int key_dim, const float* from, float* to,
                     const typename Vec::Floats* change, typename Vec::Floats* answer, typename Vec::Floats* known) {
  constexpr int vectors = delta_lanes / Vec::lanes;
  const auto fading = Vec::splat(token.decay);
  for (int v = 0; v < vectors; v++) answer[v] = known[v] = Vec::zero();
  for (int i = 0; i < key_dim; i++, from += delta_lanes, to += delta_lanes) {
    const auto part = Vec::splat(token.key[i]), asked = Vec::splat(token.query[i]);
    const auto next = Vec::splat(has_next ? next_key[i] : 0.0f);
    for (int v = 0; v < vectors; v++) {
      const auto faded = Vec::multiply(Vec::load(from + v * Vec::lanes), fading);
      const auto now = Vec::fma(part, change[v], faded);
      Vec::store(to + v * Vec::lanes, now);
      answer[v] = Vec::fma(now, asked, answer[v]);
      if constexpr (has_next) known[v] = Vec::fma(now, next, known[v]);
    }
  }
}

// A block on its way through a row's tokens. In a state, a head has its blocks one behind the other.
struct DeltaBlock {
  alignas(64) float known[delta_lanes];  // for the next token's key
  const float* before;                   // where it is read: `now` from the second token on
  float* now;                            // where it is written, in lines of delta_lanes
  size_t state_at;
  int count;     // of its components
  int snapshot;  // the first that was not written

  bool is_whole() const { return count == delta_lanes; }

  // From `now` into a state.
  void write(float* state, int key_dim) const {
    float* to = state + state_at;
    for (int i = 0; i < key_dim; i++) std::memcpy(to + i * count, now + i * delta_lanes, sizeof(float) * count);
  }
};

// Some blocks of one head, and the inputs of some tokens. In the activations, these lie so far from each other that
// processors do not see them coming.
template <class Vec>
class DeltaHead {
 public:
  DeltaHead(const GatedDeltaJob& job, const DeltaGates& gates, const StateRow& row, const DeltaTask& task, float* scratch)
      : job_(job),
        gates_(gates),
        row_(row),
        task_(task),
        key_head_(task.head / (job.value_heads / job.key_heads)),
        width_(std::min(task.blocks * delta_lanes, job.value_dim - task.first_block * delta_lanes)),
        narrow_(scratch),
        queries_(narrow_ + job.key_dim * delta_lanes),
        keys_(queries_ + job.key_dim * delta_tokens),
        values_(keys_ + job.key_dim * (delta_tokens + 1)) {}

  void run() {
    DeltaBlock blocks[max_delta_blocks];
    for (int from = 0; from < row_.new_tokens; from += delta_tokens) {
      const int end = std::min(row_.new_tokens, from + delta_tokens);
      gather(from, end);
      for (int i = 0; i < task_.blocks; i++) {
        if (from == 0) blocks[i] = begin(i);
        advance(blocks[i], i, from, end);
      }
      for (int t = from; t < end; t++) std::memcpy(result(t), value(t - from), sizeof(float) * width_);
    }
    for (int i = 0; i < task_.blocks; i++) {
      if (!blocks[i].is_whole()) blocks[i].write(row_.to, job_.key_dim);
    }
  }

 private:
  using Floats = typename Vec::Floats;
  static constexpr int vectors = delta_lanes / Vec::lanes;

  // Copies the inputs of some tokens, and the next one's key.
  void gather(int from, int end) {
    const size_t key_bytes = sizeof(float) * job_.key_dim;
    const size_t head_at = static_cast<size_t>(key_head_) * job_.key_dim;
    const size_t keys_at = static_cast<size_t>(job_.key_heads) * job_.key_dim;
    const size_t values_at = 2 * keys_at + static_cast<size_t>(task_.head) * job_.value_dim + first();
    for (int t = from; t < end; t++) {
      const float* inputs = job_.qkv + index(t) * job_.width();
      std::memcpy(queries_ + (t - from) * job_.key_dim, inputs + head_at, key_bytes);
      std::memcpy(key(t - from), inputs + keys_at + head_at, key_bytes);
      // Lanes that a narrow block does not have are 0, and stay so.
      std::memset(value(t - from), 0, sizeof(float) * task_.blocks * delta_lanes);
      std::memcpy(value(t - from), inputs + values_at, sizeof(float) * width_);
      for (int i = 0; i < width_; i += 16) __builtin_prefetch(result(t) + i, 1);
    }
    if (end < row_.new_tokens) {
      std::memcpy(key(end - from), job_.qkv + index(end) * job_.width() + keys_at + head_at, key_bytes);
    }
  }

  DeltaBlock begin(int index) const {
    DeltaBlock block;
    const int first_component = first() + index * delta_lanes;
    block.count = std::min(delta_lanes, job_.value_dim - first_component);
    block.state_at =
        job_.state_at + (static_cast<size_t>(task_.head) * job_.value_dim + first_component) * job_.key_dim;
    block.snapshot = 0;
    block.before = row_.from ? row_.from + block.state_at : nullptr;
    block.now = block.is_whole() ? row_.to + block.state_at : narrow_;
    if (!block.is_whole() || !block.before) {
      std::memset(block.now, 0, sizeof(float) * job_.key_dim * delta_lanes);
      for (int i = 0; block.before && i < job_.key_dim; i++) {
        std::memcpy(block.now + i * delta_lanes, block.before + i * block.count, sizeof(float) * block.count);
      }
      block.before = block.now;
    }
    Floats known[vectors];
    recall<Vec>(block.before, key(0), job_.key_dim, known);
    for (int v = 0; v < vectors; v++) Vec::store(block.known + v * Vec::lanes, known[v]);
    return block;
  }

  // Of the block with this index. Answers take the place of values.
  void advance(DeltaBlock& block, int index, int from, int end) const {
    Floats known[vectors], change[vectors], answer[vectors];
    for (int v = 0; v < vectors; v++) known[v] = Vec::load(block.known + v * Vec::lanes);
    for (int t = from; t < end; t++) {
      const DeltaToken now = token(t, from);
      float* values = value(t - from) + index * delta_lanes;
      for (int v = 0; v < vectors; v++) {
        const auto missing = Vec::fma(known[v], Vec::splat(-now.decay), Vec::load(values + v * Vec::lanes));
        change[v] = Vec::multiply(missing, Vec::splat(now.beta));
      }
      if (t + 1 < row_.new_tokens) {
        learn<Vec, true>(now, key(t + 1 - from), job_.key_dim, block.before, block.now, change, answer, known);
      } else {
        learn<Vec, false>(now, nullptr, job_.key_dim, block.before, block.now, change, answer, known);
      }
      block.before = block.now;
      for (int v = 0; v < vectors; v++) Vec::store(values + v * Vec::lanes, answer[v]);
      write_snapshots(row_, t + 1, block.snapshot, [&](float* to) { block.write(to, job_.key_dim); });
    }
    for (int v = 0; v < vectors; v++) Vec::store(block.known + v * Vec::lanes, known[v]);
  }

  size_t index(int t) const { return static_cast<size_t>(row_.first_token) + t; }
  int first() const { return task_.first_block * delta_lanes; }
  float* result(int t) const { return job_.y + (index(t) * job_.value_heads + task_.head) * job_.value_dim + first(); }
  // Of the tokens that were gathered.
  float* key(int t) const { return keys_ + t * job_.key_dim; }
  float* value(int t) const { return values_ + t * task_.blocks * delta_lanes; }
  DeltaToken token(int t, int from) const {
    const size_t gate = index(t) * job_.value_heads + task_.head;
    return {queries_ + (t - from) * job_.key_dim, key(t - from), gates_.decays[gate], gates_.betas[gate]};
  }

  const GatedDeltaJob& job_;
  const DeltaGates& gates_;
  const StateRow& row_;
  const DeltaTask& task_;
  const int key_head_;
  const int width_;  // components of values
  // A narrow block is computed in a whole one.
  float* const narrow_;
  float* const queries_;
  float* const keys_;
  float* const values_;
};

template <class Vec>
void gated_delta_values(const GatedDeltaJob& job, const DeltaGates& gates, const StateRow& row, const DeltaTask& task,
                        float* scratch) {
  DeltaHead<Vec>(job, gates, row, task, scratch).run();
}

}  // namespace
}  // namespace kr
