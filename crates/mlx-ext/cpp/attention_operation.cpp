// kr::attention as an operation of a chain, and the memory that it works on.

#include "kernels/attention.h"
#include "operations.h"

#include <mlx/stream.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

namespace kr {
namespace {

// Blocks of keys and values, all layers'. Reserved address space: a page costs memory once it is written.
class KvPool {
 public:
  KvPool(KvShape shape, int blocks) : shape_(shape), blocks_(blocks) {
    size_t a_layer;
    if (__builtin_mul_overflow(kv_block_bytes(shape), static_cast<size_t>(blocks), &a_layer) ||
        __builtin_mul_overflow(a_layer, static_cast<size_t>(shape.layers), &size_)) {
      throw std::bad_alloc();
    }
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
  }
  ~KvPool() { munmap(memory_, size_); }
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  const KvShape& shape() const { return shape_; }
  int blocks() const { return blocks_; }
  char* memory() const { return memory_; }

  // Both in range. Layers are apart: a block has one place in each.
  void copy_block(int from, int to) {
    if (from == to) return;
    const size_t bytes = kv_block_bytes(shape_);
    for (int layer = 0; layer < shape_.layers; layer++) {
      std::copy_n(place(from, layer), bytes, place(to, layer));
    }
  }

  // All layers' parts of a block, one after the other. `bytes` has room for them.
  void read_block(int block, char* bytes) const {
    const size_t a_layer = kv_block_bytes(shape_);
    for (int layer = 0; layer < shape_.layers; layer++) {
      bytes = std::copy_n(place(block, layer), a_layer, bytes);
    }
  }

  // What read_block has read.
  void write_block(int block, const char* bytes) {
    const size_t a_layer = kv_block_bytes(shape_);
    for (int layer = 0; layer < shape_.layers; layer++) {
      std::copy_n(bytes + static_cast<size_t>(layer) * a_layer, a_layer, place(block, layer));
    }
  }

 private:
  char* place(int block, int layer) const {
    const auto index = static_cast<size_t>(layer) * static_cast<size_t>(blocks_) + static_cast<size_t>(block);
    return memory_ + index * kv_block_bytes(shape_);
  }

  KvShape shape_;
  int blocks_;
  size_t size_;
  char* memory_;
};

// The rows of one step, shared by all of its layers.
struct StepRows {
  std::vector<AttentionRow> rows;
  std::vector<int32_t> blocks;
  int tokens;
};

// kr::attention. Writes to the pool as well as to its result. MLX does not know of that: what orders the writes is that a
// step is evaluated before the next one is built, and that within a step every layer has its own part of the blocks. A layer
// that reads another one's part depends on that one's result.
struct Attention : Operation {
  Operand qkv;
  mx::array cos, sin;
  std::optional<mx::array> query_scale, sinks;
  AttentionJob job;  // without the addresses of arrays
  std::shared_ptr<KvPool> pool;
  std::shared_ptr<StepRows> step;

  Attention(Operand qkv, mx::array cos, mx::array sin)
      : qkv(std::move(qkv)), cos(std::move(cos)), sin(std::move(sin)), job{} {}

  Operands operands() const override { return {&qkv}; }

  void check() const override {
    require_contiguous(operands(), "an input of attention");
    require_contiguous(cos, "a rotary table");
    require_contiguous(sin, "a rotary table");
    if (query_scale) require_contiguous(*query_scale, "a table of the queries' factors");
    if (sinks) require_contiguous(*sinks, "the heads' sinks");
  }

  void run(const std::vector<float*>& values, float* out) const override {
    AttentionJob now = job;
    now.qkv = qkv.data(values);
    now.cos = cos.data<float>();
    now.sin = sin.data<float>();
    now.query_scale = query_scale ? query_scale->data<float>() : nullptr;
    now.sinks = sinks ? sinks->data<float>() : nullptr;
    now.out = out;
    attention(now);
  }
};

}  // namespace
}  // namespace kr

struct MlxExtKvPool {
  std::shared_ptr<kr::KvPool> pool;
};

struct MlxExtStep {
  std::shared_ptr<kr::KvPool> pool;
  std::shared_ptr<kr::StepRows> step;
};

struct MlxExtStepRow {
  int first_token;
  int new_tokens;
  int position;
  int first_block;  // index into the step's list of blocks
};

struct MlxExtAttention {
  void* qkv;
  void* cos;
  void* sin;
  void* query_scale;  // null: none
  void* sinks;        // null: none
  const MlxExtStep* step;
  int layer;
  int heads;
  float scale;
  float soft_cap;  // 0: none
  int window;
  int traditional;
  int chunked;
  int appends;
};

namespace kr {
namespace {

mx::array make_attention(const MlxExtAttention& spec) {
  const KvShape& shape = spec.step->pool->shape();
  const mx::array& qkv = array_at(spec.qkv);
  const mx::array& cos = array_at(spec.cos);
  const mx::array& sin = array_at(spec.sin);
  require(qkv.dtype() == mx::float32 && qkv.ndim() == 2, "queries, keys and values are float32 [tokens, width]");
  require(qkv.shape(0) == spec.step->step->tokens, "the step has another number of tokens than its queries");
  require(spec.heads > 0 && spec.heads % shape.kv_heads == 0, "query heads are a multiple of key heads");
  const int64_t all_heads = int64_t{spec.heads} + (spec.appends ? 2 * int64_t{shape.kv_heads} : 0);
  require(qkv.shape(1) == all_heads * shape.head_dim, "queries of all heads, with keys and values if these are appended");
  require(spec.layer >= 0 && spec.layer < shape.layers, "no such layer");
  require(cos.dtype() == mx::float32 && cos.ndim() == 2, "cos [positions, pairs]");
  require(int64_t{cos.shape(1)} * 2 <= shape.head_dim, "a head has fewer components than are rotated");
  require(sin.dtype() == mx::float32 && sin.shape() == cos.shape(), "sin like cos");
  const mx::array* query_scale = spec.query_scale ? &array_at(spec.query_scale) : nullptr;
  require(!query_scale || (query_scale->dtype() == mx::float32 && query_scale->ndim() == 1),
          "the queries' factors are float32 [positions]");
  const mx::array* sinks = spec.sinks ? &array_at(spec.sinks) : nullptr;
  require(!sinks || (sinks->dtype() == mx::float32 && sinks->shape() == mx::Shape{spec.heads}),
          "sinks are float32 [heads]");
  for (const AttentionRow& row : spec.step->step->rows) {
    const int64_t end = int64_t{row.position} + row.new_tokens;
    require(end <= cos.shape(0), "a position is beyond the rotary table");
    require(!query_scale || end <= query_scale->shape(0), "a position is beyond the table of the queries' factors");
  }
  ChainBuilder chain({&qkv});
  auto attention = std::make_unique<Attention>(chain.activation(qkv), chain.weight(cos), chain.weight(sin));
  if (query_scale) attention->query_scale = chain.weight(*query_scale);
  if (sinks) attention->sinks = chain.weight(*sinks);
  attention->pool = spec.step->pool;
  attention->step = spec.step->step;
  AttentionJob& job = attention->job;
  job.shape = shape;
  job.layer = spec.layer;
  job.heads = spec.heads;
  job.scale = spec.scale;
  job.soft_cap = spec.soft_cap;
  job.window = spec.window;
  job.chunked = spec.chunked != 0;
  job.appends = spec.appends != 0;
  job.traditional = spec.traditional != 0;
  job.rope_dims = cos.shape(1) * 2;
  job.pool = attention->pool->memory();
  job.blocks_in_pool = attention->pool->blocks();
  job.rows = attention->step->rows.data();
  job.row_count = static_cast<int>(attention->step->rows.size());
  // Less than the width of `qkv`, which is an int.
  return chain.append({qkv.shape(0), spec.heads * shape.head_dim}, std::move(attention));
}

}  // namespace
}  // namespace kr

// Null if there is no memory. `half` keeps keys and values as float16.
extern "C" MlxExtKvPool* mlx_ext_kv_pool_new(
    int layers, int kv_heads, int head_dim, int block_tokens, int half, int blocks) noexcept {
  try {
    const kr::Float type = half ? kr::Float::f16 : kr::Float::f32;
    const kr::KvShape shape{layers, kv_heads, head_dim, block_tokens, type};
    return new MlxExtKvPool{std::make_shared<kr::KvPool>(shape, blocks)};
  } catch (...) {
    return nullptr;
  }
}

// The caller has checked that the blocks are in the pool. 0 and a message on failure.
extern "C" int mlx_ext_kv_pool_copy(
    const MlxExtKvPool* pool, int from, int to, char* message, size_t message_size) noexcept {
  return kr::done_or_message(message, message_size, [&] {
    // Attention that was handed to the stream may still be writing.
    mlx::core::synchronize(mlx::core::default_stream(mlx::core::Device::cpu));
    pool->pool->copy_block(from, to);
  });
}

// The same of the block, and of the room behind `bytes`.
extern "C" int mlx_ext_kv_pool_read(
    const MlxExtKvPool* pool, int block, char* bytes, char* message, size_t message_size) noexcept {
  return kr::done_or_message(message, message_size, [&] {
    mlx::core::synchronize(mlx::core::default_stream(mlx::core::Device::cpu));
    pool->pool->read_block(block, bytes);
  });
}

extern "C" int mlx_ext_kv_pool_write(
    const MlxExtKvPool* pool, int block, const char* bytes, char* message, size_t message_size) noexcept {
  return kr::done_or_message(message, message_size, [&] {
    mlx::core::synchronize(mlx::core::default_stream(mlx::core::Device::cpu));
    pool->pool->write_block(block, bytes);
  });
}

extern "C" void mlx_ext_kv_pool_free(MlxExtKvPool* pool) noexcept { delete pool; }

// The caller has checked that every row's blocks are in the list, and in the pool. Null if there is no memory.
extern "C" MlxExtStep* mlx_ext_step_new(
    const MlxExtKvPool* pool, const MlxExtStepRow* rows, int row_count, const int32_t* blocks, int block_count,
    int tokens) noexcept {
  try {
    auto step = std::make_shared<kr::StepRows>();
    step->blocks.assign(blocks, blocks + block_count);
    step->tokens = tokens;
    for (int i = 0; i < row_count; i++) {
      const int32_t* own = step->blocks.data() + rows[i].first_block;
      step->rows.push_back({rows[i].first_token, rows[i].new_tokens, rows[i].position, own});
    }
    return new MlxExtStep{pool->pool, std::move(step)};
  } catch (...) {
    return nullptr;
  }
}

extern "C" void mlx_ext_step_free(MlxExtStep* step) noexcept { delete step; }

extern "C" void* mlx_ext_attention(const MlxExtAttention* spec, char* message, size_t message_size) noexcept {
  return kr::array_or_null(message, message_size, [&] { return kr::make_attention(*spec); });
}
