// Cuts a step's attention into tasks and runs them on the pool. The arithmetic is in attention_task.h.
//
// A block holds, for each key-value head, a tile of keys and then one of values, in strips that attention_kernels.h
// describes. A query meets the keys in partitions of 256, cut at absolute positions; each is softmaxed on its own, and
// the results are folded in order. How the work is cut below decides who computes a partition, never how.
#include "attention.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <vector>

#include "attention_kernels.h"
#include "by_isa.h"
#include "pool.h"

namespace kr {

size_t kv_block_bytes(const KvShape& shape) {
  size_t element = shape.type == Float::f32 ? 4 : 2;
  return 2 * size_t(shape.kv_heads) * size_t(shape.head_dim) * size_t(shape.block_tokens) * element;
}

namespace {

// Pieces that each thread should find, so that all end at about the same time.
constexpr int pieces_per_thread = 3;

const AttentionKernels& kernels() {
#if defined(__x86_64__)
  const AttentionKernels& wide = attention_kernels_avx512;
  return ByIsa<AttentionKernels>{attention_kernels_portable, attention_kernels_avx2, wide, wide}.here();
#elif defined(__aarch64__)
  return ByIsa<AttentionKernels>{attention_kernels_portable, attention_kernels_neon}.here();
#else
  return attention_kernels_portable;
#endif
}

// Floats that are kept from call to call and grow when a call needs more.
class GrowingMemory {
 public:
  GrowingMemory() = default;
  GrowingMemory(const GrowingMemory&) = delete;
  ~GrowingMemory() { std::free(memory_); }

  float* at_least(size_t floats) {
    if (floats > floats_) {
      std::free(memory_);
      floats_ = (floats + 15) / 16 * 16;
      memory_ = static_cast<float*>(std::aligned_alloc(64, floats_ * sizeof(float)));
      if (memory_ == nullptr) {
        floats_ = 0;
        throw std::bad_alloc();
      }
    }
    return memory_;
  }

 private:
  float* memory_ = nullptr;
  size_t floats_ = 0;
};

float* thread_scratch(int head_dim) {
  static thread_local GrowingMemory scratch;
  return scratch.at_least(scratch_floats(head_dim));
}

int divide_up(int a, int b) { return (a + b - 1) / b; }

// The tasks of one call. Kept from call to call for its memory.
class Plan {
 public:
  void make(const AttentionJob& job, int threads) {
    appends_.clear();
    tasks_.clear();
    wholes_.clear();
    // Prompts first: their tasks are the longest.
    for (bool prompts : {true, false})
      for (int r = 0; r < job.row_count; ++r)
        if (needs_blocks_of_queries(job, job.rows[r]) == prompts) add_row(job, job.rows[r], prompts);
    spread_wholes(job.shape.head_dim, threads);
  }

  void run(const AttentionJob& job) {
    int head_dim = job.shape.head_dim;
    if (!appends_.empty()) {
      Pool::shared().run(int(appends_.size()),
                         [&](int i) { kernels().append(job, appends_[size_t(i)], thread_scratch(head_dim)); });
    }
    float* partials = partial_memory_.at_least(partial_floats_);
    Pool::shared().run(int(tasks_.size()), [&](int i) { run_task(job, tasks_[size_t(i)], partials); });
  }

 private:
  // Heads of one key-value head that a task takes, and queries: together at most max_task_rows.
  static int heads_per_task(const AttentionJob& job) {
    int group = job.heads / job.shape.kv_heads;
    return divide_up(group, divide_up(group, max_task_rows));
  }

  static int queries_per_task(const AttentionJob& job) { return max_task_rows / heads_per_task(job); }

  static int first_partition(const AttentionJob& job, int position) {
    return first_key(job, position) / partition_keys;
  }

  // Whether several tasks need a row's new keys: then they must all be appended before any task attends. Otherwise
  // the one task appends them itself, which saves a round of the pool.
  static bool needs_blocks_of_queries(const AttentionJob& job, const AttentionRow& row) {
    int last = row.position + row.new_tokens - 1;
    return row.new_tokens > queries_per_task(job) || heads_per_task(job) < job.heads / job.shape.kv_heads ||
           row.position / partition_keys != last / partition_keys;
  }

  void add_row(const AttentionJob& job, const AttentionRow& row, bool append_first) {
    if (append_first && job.appends) {
      for (int first = 0; first < row.new_tokens;) {
        int room = tile_keys - (row.position + first) % tile_keys;
        int count = row.new_tokens - first < room ? row.new_tokens - first : room;
        appends_.push_back({&row, first, count});
        first += count;
      }
    }
    int group = job.heads / job.shape.kv_heads;
    int blocks_of_queries = divide_up(row.new_tokens, queries_per_task(job));
    bool appends = !append_first && job.appends;
    for (int kv_head = 0; kv_head < job.shape.kv_heads; ++kv_head)
      for (int head = 0; head < group; head += heads_per_task(job))
        for (int block = blocks_of_queries - 1; block >= 0; --block) {
          int heads = group - head < heads_per_task(job) ? group - head : heads_per_task(job);
          add_whole(job, row, kv_head, kv_head * group + head, heads, block * queries_per_task(job), appends);
        }
  }

  void add_whole(const AttentionJob& job, const AttentionRow& row, int kv_head, int first_head, int heads,
                 int first_query, bool appends) {
    int left = row.new_tokens - first_query;
    int queries = left < queries_per_task(job) ? left : queries_per_task(job);
    int position = row.position + first_query;
    int first = first_partition(job, position);
    int end = (position + queries - 1) / partition_keys + 1;
    wholes_.push_back({&row, kv_head, first_head, heads, first_query, queries, first, end, first, end, appends, -1, 0});
  }

  // About proportional to the time that a partition takes; the constant stands for reading it.
  static size_t cost(const AttentionTask& task) {
    return size_t(task.end_partition - task.first_partition) * size_t(task.queries * task.heads + 2);
  }

  // Cuts tasks that would keep one thread busy while others have nothing to do.
  void spread_wholes(int head_dim, int threads) {
    size_t total = 0;
    for (const AttentionTask& whole : wholes_) total += cost(whole);
    size_t fair = total / size_t(threads * pieces_per_thread) + 1;
    partial_floats_ = 0;
    int spread = 0;
    for (const AttentionTask& whole : wholes_) {
      int partitions = whole.end_partition - whole.first_partition;
      size_t wanted = threads == 1 ? 1 : (cost(whole) + fair - 1) / fair;
      int pieces = wanted < size_t(partitions) ? int(wanted) : partitions;
      if (pieces <= 1) {
        tasks_.push_back(whole);
        continue;
      }
      for (int piece = 0; piece < pieces; ++piece) {
        AttentionTask task = whole;
        task.first_partition = whole.first_partition + partitions * piece / pieces;
        task.end_partition = whole.first_partition + partitions * (piece + 1) / pieces;
        task.appends = whole.appends && piece == pieces - 1;
        task.spread = spread;
        task.partials = partial_floats_;
        tasks_.push_back(task);
      }
      partial_floats_ += size_t(partitions) * partial_floats(head_dim);
      ++spread;
    }
    reset_counters(spread);
  }

  void reset_counters(int spread) {
    if (partitions_left_.size() < size_t(spread)) partitions_left_ = std::vector<std::atomic<int>>(size_t(spread));
    for (const AttentionTask& task : tasks_) {
      if (task.spread < 0) continue;
      int partitions = task.all_end_partition - task.all_first_partition;
      partitions_left_[size_t(task.spread)].store(partitions, std::memory_order_relaxed);
    }
  }

  void run_task(const AttentionJob& job, const AttentionTask& task, float* all_partials) {
    float* scratch = thread_scratch(job.shape.head_dim);
    if (task.spread < 0) return kernels().attend(job, task, scratch);
    float* partials = all_partials + task.partials;
    size_t before = size_t(task.first_partition - task.all_first_partition);
    kernels().attend_partly(job, task, partials + before * partial_floats(job.shape.head_dim), scratch);
    // Whoever is last has, by this counter, seen all Partials.
    int done = task.end_partition - task.first_partition;
    int left = partitions_left_[size_t(task.spread)].fetch_sub(done, std::memory_order_acq_rel) - done;
    if (left == 0) kernels().finish(job, task, partials);
  }

  std::vector<AppendTask> appends_;
  std::vector<AttentionTask> wholes_;
  std::vector<AttentionTask> tasks_;
  std::vector<std::atomic<int>> partitions_left_;  // of each spread task
  GrowingMemory partial_memory_;
  size_t partial_floats_ = 0;
};

void check(const AttentionJob& job) {
  const KvShape& shape = job.shape;
  if (shape.block_tokens != tile_keys) throw std::invalid_argument("attention: blocks must hold 32 tokens");
  if (shape.head_dim <= 0 || shape.head_dim % 8 != 0)
    throw std::invalid_argument("attention: head_dim must be a multiple of 8");
  if (shape.kv_heads <= 0 || job.heads <= 0 || job.heads % shape.kv_heads != 0)
    throw std::invalid_argument("attention: heads must be a multiple of kv_heads");
  if (shape.type == Float::bf16) throw std::invalid_argument("attention: keys and values are f32 or f16");
  if (job.rope_dims < 0 || job.rope_dims > shape.head_dim || job.rope_dims % 2 != 0)
    throw std::invalid_argument("attention: rope_dims must be even and at most head_dim");
}

}  // namespace

void attention(const AttentionJob& job) {
  check(job);
  static thread_local Plan plan;
  plan.make(job, Pool::shared().threads());
  plan.run(job);
}

}  // namespace kr
