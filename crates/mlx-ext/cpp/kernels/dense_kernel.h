// Products of float32 rows with dense weights, for any vector type.
//
// A lane is an output. Its inputs are cut into segments; each segment is one chain of fused multiply-adds in the order
// of the inputs, and the segments' sums are added in theirs. Where there are many rows, segments follow each other;
// where there is one, those of a block grow side by side, since a chain of dependent additions is slow: the result is the
// same.
#pragma once

#include "parts.h"
#include "tile_kernels.h"
#include "widen_kernel.h"

namespace kr {
namespace {

constexpr int dense_segment = 64;
constexpr int segments_a_block = dense_block / dense_segment;

// Some segments of `count` inputs each, added to the tile.
template <class Vec, int rows, int segments>
void dense_segments_product(const float* weights, const float* x, size_t inputs, int count, float* tile) {
  constexpr int vectors = Vec::tile_vectors;
  constexpr int width = Vec::lanes * vectors;
  typename Vec::Floats sums[segments][rows][vectors];
  for (int s = 0; s < segments; s++) {
    for (int r = 0; r < rows; r++) {
      for (int v = 0; v < vectors; v++) sums[s][r][v] = Vec::zero();
    }
  }
  for (int k = 0; k < count; k++, weights += width, x++) {
    for (int s = 0; s < segments; s++) {
      typename Vec::Floats w[vectors];
      for (int v = 0; v < vectors; v++) w[v] = Vec::load(weights + s * dense_segment * width + v * Vec::lanes);
      for (int r = 0; r < rows; r++) {
        const auto x_here = Vec::splat(x[r * inputs + s * dense_segment]);
        for (int v = 0; v < vectors; v++) sums[s][r][v] = Vec::fma(w[v], x_here, sums[s][r][v]);
      }
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int v = 0; v < vectors; v++) {
      auto y = Vec::load(tile + r * width + v * Vec::lanes);
      for (int s = 0; s < segments; s++) y = Vec::add(y, sums[s][r][v]);
      Vec::store(tile + r * width + v * Vec::lanes, y);
    }
  }
}

// A block of `count` inputs, added to the tile.
template <class Vec, int rows>
void dense_block_product(const float* weights, const float* x, size_t inputs, int count, float* tile) {
  constexpr int width = Vec::lanes * Vec::tile_vectors;
  if constexpr (rows == 1) {
    if (count == dense_block) {
      return dense_segments_product<Vec, rows, segments_a_block>(weights, x, inputs, dense_segment, tile);
    }
  }
  for (int k = 0; k < count; k += dense_segment) {
    const int now = count - k < dense_segment ? count - k : dense_segment;
    dense_segments_product<Vec, rows, 1>(weights + static_cast<size_t>(k) * width, x + k, inputs, now, tile);
  }
}

// One row and one vector of outputs: whole blocks of floats of 16 bits, which are widened between the loads and not written
// to memory.
template <class Vec, Float type>
KR_INLINE void dense_row_product(const uint8_t* rows, size_t stride, const float* x, size_t inputs, Ahead next, float* tile) {
  auto y = Vec::zero();
  for (size_t k = 0; k < inputs; k += dense_block) {
    typename Vec::Floats sums[segments_a_block];
    KR_UNROLL
    for (int s = 0; s < segments_a_block; s++) sums[s] = Vec::zero();
    for (size_t c = k; c < k + dense_segment; c += 8) {
      KR_UNROLL
      for (int s = 0; s < segments_a_block; s++) {
        const size_t first = c + s * dense_segment;
        Ahead::fetch<16 * Vec::lanes>(next);
        typename Vec::Ints columns[4];
        Vec::template transposed<PlainChunk>(rows + 2 * first, stride, columns);
        KR_UNROLL
        for (int j = 0; j < 4; j++) {
          typename Vec::Floats low, high;
          Vec::widen(columns[j], type, low, high);
          sums[s] = Vec::fma(low, Vec::splat(x[first + 2 * j]), sums[s]);
          sums[s] = Vec::fma(high, Vec::splat(x[first + 2 * j + 1]), sums[s]);
        }
      }
    }
    KR_UNROLL
    for (int s = 0; s < segments_a_block; s++) y = Vec::add(y, sums[s]);
  }
  Vec::store(tile, y);
}

// One row: the blocks that are whole, of floats of 16 bits. Returns how many inputs that are.
template <class Vec>
size_t dense_row_tile(const DenseMatrix& matrix, const char* values, const float* x, bool last, float* tile) {
  const size_t inputs = matrix.type == Float::f32 ? 0 : matrix.inputs / dense_block * dense_block;
  const size_t stride = size_t{2} * matrix.inputs, distance = last ? 0 : Vec::lanes * Vec::tile_vectors * stride;
  for (int v = 0; v < Vec::tile_vectors && inputs > 0; v++) {
    const auto* rows = reinterpret_cast<const uint8_t*>(values) + v * Vec::lanes * stride;
    const Ahead next(rows + distance, distance);
    if (matrix.type == Float::f16) {
      dense_row_product<Vec, Float::f16>(rows, stride, x, inputs, next, tile + v * Vec::lanes);
    } else {
      dense_row_product<Vec, Float::bf16>(rows, stride, x, inputs, next, tile + v * Vec::lanes);
    }
  }
  return inputs;
}

template <class Vec>
void dense_tile(const DenseMatrix& matrix, int first_output, const float* x, int first_row, int rows, float* tile,
                const TileScratch& scratch, bool last) {
  constexpr int width = Vec::lanes * Vec::tile_vectors;
  const size_t inputs = matrix.inputs;
  const size_t value_bytes = float_bytes(matrix.type);
  const auto* values = static_cast<const char*>(matrix.values) + first_output * inputs * value_bytes;
  auto* weights = static_cast<float*>(scratch.unpacked);
  for (int i = 0; i < rows * width; i += Vec::lanes) Vec::store(tile + i, Vec::zero());
  const size_t done = rows == 1 ? dense_row_tile<Vec>(matrix, values, x + first_row * inputs, last, tile) : 0;
  for (size_t k = done; k < inputs; k += dense_block) {
    const int count = inputs - k < dense_block ? static_cast<int>(inputs - k) : dense_block;
    const char* next = last ? nullptr : values + width * (inputs + k) * value_bytes;
    widen_columns<Vec>(values + k * value_bytes, matrix.type, inputs, count, next, weights);
    in_even_parts<Vec::tile_rows>(rows, [&](int first, auto constant) {
      dense_block_product<Vec, constant>(weights, x + (first_row + first) * inputs + k, inputs, count,
                                         tile + first * width);
    });
  }
}

}  // namespace
}  // namespace kr
