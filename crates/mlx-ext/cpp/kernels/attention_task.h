// One task of attention: rotate, append, attend to partitions, fold. Included by one translation unit per instruction
// set after `Vec`, see attention_tile.h.
#pragma once

#include "attention_fold.h"
#include "attention_tile.h"

namespace kr {
namespace {

// In strips, see attention_kernels.h.
template <class Stored>
struct Tile {
  Stored* keys;
  Stored* values;
};

template <class Stored>
Tile<Stored> tile_of(const AttentionJob& job, const AttentionRow& row, int tile, int kv_head) {
  size_t half = size_t(tile_keys) * size_t(job.shape.head_dim);
  size_t block = size_t(job.layer) * size_t(job.blocks_in_pool) + size_t(row.blocks[tile]);
  auto* stored = reinterpret_cast<Stored*>(job.pool + block * kv_block_bytes(job.shape));
  stored += size_t(kv_head) * 2 * half;
  return {stored, stored + half};
}

const float* projection(const AttentionJob& job, int token, int head) {
  size_t heads = size_t(job.heads) + (job.appends ? 2 * size_t(job.shape.kv_heads) : 0);
  return job.qkv + (size_t(token) * heads + size_t(head)) * size_t(job.shape.head_dim);
}

float* output(const AttentionJob& job, int token, int head) {
  return job.out + (size_t(token) * size_t(job.heads) + size_t(head)) * size_t(job.shape.head_dim);
}

// rotated = factor * RoPE(head).
void rotate(const AttentionJob& job, const float* __restrict head, int position, float factor,
            float* __restrict rotated) {
  int pairs = job.rope_dims / 2;
  const float* __restrict cos = job.cos + size_t(position) * size_t(pairs);
  const float* __restrict sin = job.sin + size_t(position) * size_t(pairs);
  if (job.traditional) {
    for (int i = 0; i < pairs; ++i) {
      float a = head[2 * i], b = head[2 * i + 1];
      rotated[2 * i] = (a * cos[i] - b * sin[i]) * factor;
      rotated[2 * i + 1] = (b * cos[i] + a * sin[i]) * factor;
    }
  } else {
    for (int i = 0; i < pairs; ++i) {
      float a = head[i], b = head[pairs + i];
      rotated[i] = (a * cos[i] - b * sin[i]) * factor;
      rotated[pairs + i] = (b * cos[i] + a * sin[i]) * factor;
    }
  }
  for (int d = 2 * pairs; d < job.shape.head_dim; ++d) rotated[d] = head[d] * factor;
}

// Appends new tokens [first, first + count) of a row, all in one block, for one key-value head.
template <class Stored>
void append_head(const AttentionJob& job, const AttentionRow& row, int first, int count, int kv_head, float* rotated) {
  int head_dim = job.shape.head_dim;
  int place = (row.position + first) % tile_keys;
  auto tile = tile_of<Stored>(job, row, (row.position + first) / tile_keys, kv_head);
  for (int t = 0; t < count; ++t) {
    int token = row.first_token + first + t;
    const float* key = projection(job, token, job.heads + kv_head);
    rotate(job, key, row.position + first + t, 1.0f, rotated + t * head_dim);
    const float* value = projection(job, token, job.heads + job.shape.kv_heads + kv_head);
    for (int d = 0; d < head_dim; d += lanes) {
      int strip = d / strip_width * strip_width;
      int width = head_dim - strip < strip_width ? lanes : strip_width;
      store(tile.values + strip * tile_keys + (place + t) * width + d - strip, load(value + d));
    }
  }
  // A vector of dimensions at a time, so that f16 rounds in one way; the transposition goes through a small array.
  for (int t = 0; t < count; ++t) {
    int strip = (place + t) / strip_width * strip_width;
    Stored* column = tile.keys + strip * head_dim + (place + t) % strip_width;
    for (int d = 0; d < head_dim; d += lanes) {
      Stored part[lanes];
      store(part, load(rotated + t * head_dim + d));
      for (int l = 0; l < lanes; ++l) column[(d + l) * strip_width] = part[l];
    }
  }
}

template <class Stored>
void append_as(const AttentionJob& job, const AppendTask& task, float* scratch) {
  for (int kv_head = 0; kv_head < job.shape.kv_heads; ++kv_head)
    append_head<Stored>(job, *task.row, task.first, task.count, kv_head, scratch);
}

// The keys of a partition that a query sees: [first, end), relative to the partition.
struct Visible {
  int first;
  int end;

  bool none() const { return first >= end; }
};

Visible visible_keys(const AttentionJob& job, int position, int partition) {
  int base = partition * partition_keys;
  int first = first_key(job, position) - base;
  int end = position + 1 - base;
  return {first > 0 ? first : 0, end < partition_keys ? end : partition_keys};
}

// Neighbouring rows of a task, as many as share registers, and the keys that any of them sees.
struct RowGroup {
  int first;
  int rows;
  Visible keys;
};

// Rows of the next group, of `left` ones: as many as fit, and no small rest after them.
int rows_to_take(int left) {
  if (left <= register_rows) return left;
  return left < 2 * register_rows ? (left + 1) / 2 : register_rows;
}

// Cuts a task's rows into groups.
int cut_rows(const Visible* visible, int rows, RowGroup* groups) {
  int count = 0;
  for (int first = 0; first < rows;) {
    int taken = rows_to_take(rows - first);
    Visible keys = {partition_keys, 0};
    for (int r = first; r < first + taken; ++r) {
      if (visible[r].none()) continue;
      if (visible[r].first < keys.first) keys.first = visible[r].first;
      if (visible[r].end > keys.end) keys.end = visible[r].end;
    }
    groups[count++] = {first, taken, keys};
    first += taken;
  }
  return count;
}

// Calls work<rows, fetches>(), with at most `most` rows.
template <int most = register_rows, class Work>
void with_constants(int rows, bool fetches, Work work) {
  if constexpr (most > 1) {
    if (rows < most) return with_constants<most - 1>(rows, fetches, work);
  }
  fetches ? work.template operator()<most, true>() : work.template operator()<most, false>();
}

// One task's way through one partition.
class PartitionPass {
 public:
  PartitionPass(const AttentionJob& job, const AttentionTask& task, int partition, const float* queries, float* scores,
                Partial result)
      : job_(job), task_(task), partition_(partition), head_dim_(job.shape.head_dim),
        rows_(task.queries * task.heads), queries_(queries), scores_(scores), result_(result) {
    for (int r = 0; r < rows_; ++r) {
      visible_[r] = visible_keys(job, task.row->position + task.first_query + r / task.heads, partition);
    }
    group_count_ = cut_rows(visible_, rows_, groups_);
    for (int g = 0; g < group_count_; ++g) {
      if (groups_[g].keys.none()) continue;
      if (groups_[g].keys.first / tile_keys < first_tile_) first_tile_ = groups_[g].keys.first / tile_keys;
      int end = (groups_[g].keys.end + tile_keys - 1) / tile_keys;
      if (end > end_tile_) end_tile_ = end;
    }
  }

  template <class Stored>
  void run() {
    int tiles = end_tile_ - first_tile_;
    for (int i = 0; i < tiles; ++i) score(stored<Stored>(first_tile_ + i).keys, ahead_of<Stored>(i), first_tile_ + i);
    weigh_all();
    for (int i = 0; i < rows_ * head_dim_; i += lanes) store(result_.out + i, broadcast(0.0f));
    for (int i = 0; i < tiles; ++i)
      add_values(stored<Stored>(first_tile_ + i).values, ahead_of<Stored>(tiles + i), first_tile_ + i);
  }

 private:
  template <class Stored>
  Tile<Stored> stored(int tile) const {
    constexpr int tiles = partition_keys / tile_keys;
    return tile_of<Stored>(job_, *task_.row, partition_ * tiles + tile, task_.kv_head);
  }

  // What to fetch during step i of a partition, whose steps are its tiles of keys and then of values: the tile of the
  // next step, be it the next partition's. (Further ahead was no faster, not even for small tiles.)
  template <class Stored>
  const Stored* ahead_of(int i) const {
    int tiles = end_tile_ - first_tile_;
    int step = i + 1;
    if (step < tiles) return stored<Stored>(first_tile_ + step).keys;
    if (step < 2 * tiles) return stored<Stored>(first_tile_ + step - tiles).values;
    if (partition_ + 1 < task_.end_partition) return stored<Stored>(partition_keys / tile_keys).keys;
    return stored<Stored>(first_tile_).values;
  }

  // The first group of rows fetches.
  template <class Stored>
  void score(const Stored* keys, const Stored* ahead, int tile) {
    bool fetches = true;
    for (int g = 0; g < group_count_; ++g) {
      const RowGroup& group = groups_[g];
      if (tile * tile_keys >= group.keys.end || (tile + 1) * tile_keys <= group.keys.first) continue;
      const float* queries = queries_ + group.first * head_dim_;
      float* scores = scores_ + group.first * partition_keys + tile * tile_keys;
      with_constants(group.rows, fetches, [&]<int rows, bool fetching>() {
        score_tile<rows, fetching>(queries, head_dim_, keys, ahead, scores);
      });
      fetches = false;
    }
  }

  void weigh_all() {
    for (int g = 0; g < group_count_; ++g) {
      const RowGroup& group = groups_[g];
      int first = group.keys.first / lanes * lanes;
      int end = (group.keys.end + lanes - 1) / lanes * lanes;
      for (int r = group.first; r < group.first + group.rows; ++r) {
        float* scores = scores_ + r * partition_keys;
        if (!visible_[r].none()) {
          if (job_.soft_cap > 0) cap_scores(scores, first, end, job_.soft_cap);
          weigh(scores, first, end, visible_[r].first, visible_[r].end, &result_.max[r], &result_.sum[r]);
          continue;
        }
        for (int key = first; key < end; ++key) scores[key] = 0.0f;
        result_.max[r] = -__builtin_inff();
        result_.sum[r] = 0.0f;
      }
    }
  }

  // A row's weight of a key that only its neighbours see is 0, which adds nothing to its sum.
  template <class Stored>
  void add_values(const Stored* values, const Stored* ahead, int tile) {
    bool fetches = true;
    for (int g = 0; g < group_count_; ++g) {
      const RowGroup& group = groups_[g];
      int base = tile * tile_keys;
      int first = group.keys.first > base ? group.keys.first - base : 0;
      int end = group.keys.end < base + tile_keys ? group.keys.end - base : tile_keys;
      if (first >= end) continue;
      const float* weights = scores_ + group.first * partition_keys + base;
      float* out = result_.out + group.first * head_dim_;
      with_constants(group.rows, fetches, [&]<int rows, bool fetching>() {
        add_value_tile<rows, fetching>(weights, values, ahead, head_dim_, first, end, out);
      });
      fetches = false;
    }
  }

  const AttentionJob& job_;
  const AttentionTask& task_;
  int partition_;
  int head_dim_;
  int rows_;
  const float* queries_;
  float* scores_;  // [rows, partition_keys], then the weights
  Partial result_;
  Visible visible_[max_task_rows];
  RowGroup groups_[max_task_rows];
  int group_count_ = 0;
  int first_tile_ = partition_keys / tile_keys;
  int end_tile_ = 0;
};

void write_output(const AttentionJob& job, const AttentionTask& task, const Partial& total) {
  int head_dim = job.shape.head_dim;
  for (int r = 0; r < task.queries * task.heads; ++r) {
    int token = task.row->first_token + task.first_query + r / task.heads;
    int head = task.first_head + r % task.heads;
    float* out = output(job, token, head);
    Vec share = broadcast(normalizer(job, total, r, head));
    // Adding 0 makes -0 a 0: what a key of weight 0 adds can differ in that sign.
    for (int d = 0; d < head_dim; d += lanes)
      store(out + d, add(mul(load(total.out + r * head_dim + d), share), broadcast(0.0f)));
  }
}

// A thread's scratch memory, cut up.
struct Scratch {
  float* queries;
  float* scores;
  float* partials;

  Scratch(float* memory, int head_dim)
      : queries(memory),
        scores(queries + max_task_rows * head_dim),
        partials(scores + max_task_rows * partition_keys) {}
};

// What the products of queries and keys are multiplied by, so that weigh() or cap_scores() can take them.
float query_factor(const AttentionJob& job, int position) {
  float factor = job.soft_cap > 0 ? job.scale / job.soft_cap * (2 * log2_e) : job.scale * log2_e;
  return job.query_scale ? factor * job.query_scale[position] : factor;
}

template <class Stored>
void prepare(const AttentionJob& job, const AttentionTask& task, const Scratch& scratch) {
  const AttentionRow& row = *task.row;
  // One token at a time, rotated where the scores will be.
  if (task.appends)
    for (int t = 0; t < row.new_tokens; ++t) append_head<Stored>(job, row, t, 1, task.kv_head, scratch.scores);
  for (int r = 0; r < task.queries * task.heads; ++r) {
    int query = task.first_query + r / task.heads;
    const float* head = projection(job, row.first_token + query, task.first_head + r % task.heads);
    int position = row.position + query;
    rotate(job, head, position, query_factor(job, position), scratch.queries + r * job.shape.head_dim);
  }
}

template <class Stored>
void attend_as(const AttentionJob& job, const AttentionTask& task, float* memory) {
  int head_dim = job.shape.head_dim;
  Scratch scratch(memory, head_dim);
  prepare<Stored>(job, task, scratch);
  Partial total = partial_at(scratch.partials, head_dim);
  Partial next = partial_at(scratch.partials + partial_floats(head_dim), head_dim);
  for (int partition = task.first_partition; partition < task.end_partition; ++partition) {
    bool is_first = partition == task.first_partition;
    PartitionPass pass(job, task, partition, scratch.queries, scratch.scores, is_first ? total : next);
    pass.run<Stored>();
    if (!is_first) fold(total, next, task.queries * task.heads, head_dim);
  }
  write_output(job, task, total);
}

template <class Stored>
void attend_partly_as(const AttentionJob& job, const AttentionTask& task, float* partials, float* memory) {
  int head_dim = job.shape.head_dim;
  Scratch scratch(memory, head_dim);
  prepare<Stored>(job, task, scratch);
  for (int partition = task.first_partition; partition < task.end_partition; ++partition) {
    Partial result = partial_at(partials, head_dim);
    PartitionPass(job, task, partition, scratch.queries, scratch.scores, result).run<Stored>();
    partials += partial_floats(head_dim);
  }
}

void finish(const AttentionJob& job, const AttentionTask& task, float* partials) {
  int head_dim = job.shape.head_dim;
  Partial total = partial_at(partials, head_dim);
  for (int i = 1; i < task.all_end_partition - task.all_first_partition; ++i) {
    Partial next = partial_at(partials + size_t(i) * partial_floats(head_dim), head_dim);
    fold(total, next, task.queries * task.heads, head_dim);
  }
  write_output(job, task, total);
}

void append(const AttentionJob& job, const AppendTask& task, float* scratch) {
  if (job.shape.type == Float::f16) return append_as<Half>(job, task, scratch);
  append_as<float>(job, task, scratch);
}

void attend(const AttentionJob& job, const AttentionTask& task, float* scratch) {
  if (job.shape.type == Float::f16) return attend_as<Half>(job, task, scratch);
  attend_as<float>(job, task, scratch);
}

void attend_partly(const AttentionJob& job, const AttentionTask& task, float* partials, float* scratch) {
  if (job.shape.type == Float::f16) return attend_partly_as<Half>(job, task, partials, scratch);
  attend_partly_as<float>(job, task, partials, scratch);
}

}  // namespace
}  // namespace kr
