// Attention of a whole step over ragged sequences, on keys and values kept in blocks.
#pragma once

#include <cstdint>

#include "matrix.h"

namespace kr {

// Keys and values of all sequences and layers, in blocks of `block_tokens` tokens. The layout inside a block is the
// kernels' own business (attention.cpp describes it).
struct KvShape {
  int layers;
  int kv_heads;
  int head_dim;      // a multiple of 8
  int block_tokens;  // 32
  Float type;        // f32 or f16
};

// Bytes of one block of one layer, keys and values together; a multiple of 64.
size_t kv_block_bytes(const KvShape& shape);

// One sequence's part of a step.
struct AttentionRow {
  int first_token;        // index of its first new token in q, k, v and the output
  int new_tokens;         // 1 for decode, more for a chunk of a prompt
  int position;           // tokens that its blocks hold already: the position of its first new token
  const int32_t* blocks;  // its block table: ceil((position + new_tokens) / block_tokens) indices into the pool
  // Rows may share blocks of which all only read; those that new tokens go to must be in use by one row only, because
  // tasks of several threads work on the rows in no particular order.
};

// One layer's attention for all rows: rotates q and k, appends k and v to the rows' blocks, and attends causally. A layer may
// also attend to what another one of the same step has appended.
//
// What a query's output is depends on its own sequence alone, bit for bit: not on the other rows, on how its prompt was
// cut into chunks, or on the number of threads.
struct AttentionJob {
  KvShape shape;
  int layer;
  int heads;            // a multiple of kv_heads
  float scale;          // of the scores, such as 1 / sqrt(head_dim)
  float soft_cap;       // scores become cap * tanh(score / cap); 0: they stay
  int window;           // a query sees this many latest tokens, itself included; 0: all
  bool traditional;     // RoPE rotates neighbours (2i, 2i+1) instead of halves (i, i + dims/2)
  int rope_dims;        // leading dimensions of a head that are rotated; 0: none
  const float* cos;     // [positions, rope_dims / 2], already scaled as the model wants
  const float* sin;     // like cos
  const float* query_scale;  // [positions]: another factor of the scores, by the query's position; null: none
  const float* sinks;   // [heads]: a score that takes its part of each softmax and has no value; null: none
  const float* qkv;     // [tokens, (heads + 2 * kv_heads) * head_dim]: queries, keys, values of each token; or queries alone
  float* out;           // [tokens, heads * head_dim]
  char* pool;           // blocks: pool + (layer * blocks_in_pool + index) * kv_block_bytes
  int blocks_in_pool;
  const AttentionRow* rows;
  int row_count;
  bool appends = true;   // otherwise `qkv` has queries alone, and the blocks have the new tokens' keys and values already
  bool chunked = false;  // a query sees the keys since the last position that `window` divides, its own included
};

// The first key that the query at a position sees.
inline int first_key(const AttentionJob& job, int position) {
  if (job.window <= 0) return 0;
  if (job.chunked) return position - position % job.window;
  return position >= job.window ? position - job.window + 1 : 0;
}

void attention(const AttentionJob& job);

}  // namespace kr
