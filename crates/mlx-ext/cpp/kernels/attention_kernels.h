// What attention.cpp asks of an instruction set: the work of one task, and the table of functions that do it.
#pragma once

#include "attention.h"

namespace kr {

// Keys that are scored at a time: one block of the pool.
constexpr int tile_keys = 32;
// A tile is stored in strips, each read from its first byte to its last: of the keys, [2 strips, head_dim, 16 keys], so
// that the scores of neighbouring keys form in the lanes of a vector; of the values, [head_dim / 16 strips, 32 keys,
// 16 dimensions], the last one of 8 dimensions if need be.
constexpr int strip_width = 16;
// Keys [256 i, 256 (i + 1)) of a sequence are softmaxed on their own; their results are folded in order of i. That is
// the arithmetic of every query, however many threads share its keys.
constexpr int partition_keys = 256;
// (head, query) pairs of a task, at most: so many share each load of a tile.
constexpr int max_task_rows = 24;

// The attention of some queries of one sequence with some heads of one key-value head.
struct AttentionTask {
  const AttentionRow* row;
  int kv_head;
  int first_head;  // among all heads
  int heads;
  int first_query;  // among the row's new tokens
  int queries;
  int first_partition;  // what this task computes
  int end_partition;
  int all_first_partition;  // what its queries see
  int all_end_partition;
  bool appends;  // the row's new keys and values are this task's to append first: nobody else needs them
  int spread;    // its index among the tasks' groups that share one set of queries; -1: it is alone
  size_t partials;  // of the group, where its first partition's Partial starts, in floats
};

// Which new tokens of a row to append, all of them in one block.
struct AppendTask {
  const AttentionRow* row;
  int first;
  int count;
};

// Softmax of one partition for the rows of a task, not yet divided by the sum. `value = out * 2^max`, so to speak.
struct Partial {
  float* max;  // [max_task_rows], of scores times log2(e)
  float* sum;  // [max_task_rows]
  float* out;  // [rows, head_dim]
};

static inline size_t partial_floats(int head_dim) { return size_t(max_task_rows) * (size_t(head_dim) + 2); }

static inline Partial partial_at(float* memory, [[maybe_unused]] int head_dim) {
  return {memory, memory + max_task_rows, memory + 2 * max_task_rows};
}

// Floats of scratch memory that a thread needs.
static inline size_t scratch_floats(int head_dim) {
  size_t queries = size_t(max_task_rows) * size_t(head_dim);
  size_t scores = size_t(max_task_rows) * partition_keys;
  return queries + scores + 2 * partial_floats(head_dim);
}

struct AttentionKernels {
  // Rotates and appends for all key-value heads.
  void (*append)(const AttentionJob& job, const AppendTask& task, float* scratch);
  // Attends and writes the output, for a task that is alone.
  void (*attend)(const AttentionJob& job, const AttentionTask& task, float* scratch);
  // Attends to the task's partitions and leaves one Partial each at `partials`.
  void (*attend_partly)(const AttentionJob& job, const AttentionTask& task, float* partials, float* scratch);
  // Folds the Partials of a whole group and writes the output.
  void (*finish)(const AttentionJob& job, const AttentionTask& task, float* partials);
};

extern const AttentionKernels attention_kernels_portable;
extern const AttentionKernels attention_kernels_avx2;
extern const AttentionKernels attention_kernels_avx512;
extern const AttentionKernels attention_kernels_neon;

}  // namespace kr
