// The float32 matrix product of MLX's own operations. What serves requests on the CPU has kernels of its own; this is
// what they are checked against, and what an operation without one falls back to. libmlx.so calls it by its standard
// name and brings a reference BLAS, which takes ten times as long. The loader takes the first definition it meets,
// breadth first from the executable, and libmlxc.so (this library) stands before that one.
//
// Tiles of the result in registers, panels of both operands packed for them: see Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (2008).
#include <algorithm>
#include <cstddef>
#include <vector>

namespace {

#if defined(__x86_64__) && !defined(__clang__)
#define KR_FOR_EACH_CPU __attribute__((target_clones("default", "fma")))
#else
#define KR_FOR_EACH_CPU
#endif

typedef float Vector __attribute__((vector_size(32)));
constexpr int lanes = 8;
constexpr int tile_rows = 6;
constexpr int tile_vectors = 2;
constexpr int tile_columns = tile_vectors * lanes;
// Steps along the inner dimension, and columns, whose packed panels stay in the caches.
constexpr int block_depth = 256;
constexpr int block_columns = 32 * tile_columns;

struct Operand {
  const float* data;
  ptrdiff_t row_step;
  ptrdiff_t column_step;
};

// tile = a b: `a` is [depth][tile_rows], `b` is [depth][tile_columns].
KR_FOR_EACH_CPU void multiply_panels(const float* a, const float* b, int depth, float* tile) {
  // Unrolled, and touched one by one, the sums are registers.
  Vector sums[tile_rows][tile_vectors] = {};
  for (int p = 0; p < depth; p++, a += tile_rows, b += tile_columns) {
    Vector low, high;
    __builtin_memcpy(&low, b, sizeof low);
    __builtin_memcpy(&high, b + lanes, sizeof high);
#pragma GCC unroll 8
    for (int r = 0; r < tile_rows; r++) {
      sums[r][0] += a[r] * low;
      sums[r][1] += a[r] * high;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < tile_rows; r++) {
    __builtin_memcpy(tile + r * tile_columns, &sums[r][0], sizeof(Vector));
    __builtin_memcpy(tile + r * tile_columns + lanes, &sums[r][1], sizeof(Vector));
  }
}

// A panel of `width` rows (of a) or columns (of b), `step` apart; missing ones are zeros.
void pack(const float* from, ptrdiff_t step, ptrdiff_t depth_step, int present, int width, int depth, float* to) {
  for (int i = 0; i < width; i++) {
    for (int p = 0; p < depth; p++) to[p * width + i] = i < present ? from[i * step + p * depth_step] : 0.0f;
  }
}

// c = alpha a b + beta c, row-major c.
void multiply(int m, int n, int k, float alpha, Operand a, Operand b, float beta, float* c, ptrdiff_t c_step) {
  for (int i = 0; i < m; i++) {
    float* row = c + i * c_step;
    for (int j = 0; j < n; j++) row[j] = beta == 0.0f ? 0.0f : beta * row[j];
  }
  std::vector<float> a_panel(tile_rows * block_depth), b_panels(block_columns * block_depth);
  float tile[tile_rows * tile_columns];
  for (int p = 0; p < k; p += block_depth) {
    const int depth = std::min(block_depth, k - p);
    for (int first = 0; first < n; first += block_columns) {
      const int end = std::min(n, first + block_columns);
      for (int j = first; j < end; j += tile_columns) {
        pack(b.data + p * b.row_step + j * b.column_step, b.column_step, b.row_step, std::min(tile_columns, end - j),
             tile_columns, depth, b_panels.data() + static_cast<ptrdiff_t>(j - first) * block_depth);
      }
      for (int i = 0; i < m; i += tile_rows) {
        const int rows = std::min(tile_rows, m - i);
        pack(a.data + i * a.row_step + p * a.column_step, a.row_step, a.column_step, rows, tile_rows, depth,
             a_panel.data());
        for (int j = first; j < end; j += tile_columns) {
          multiply_panels(a_panel.data(), b_panels.data() + static_cast<ptrdiff_t>(j - first) * block_depth, depth,
                          tile);
          for (int r = 0; r < rows; r++) {
            float* row = c + (i + r) * c_step;
            for (int o = j; o < std::min(j + tile_columns, end); o++) row[o] += alpha * tile[r * tile_columns + o - j];
          }
        }
      }
    }
  }
}

constexpr int column_major = 102;
constexpr int not_transposed = 111;

Operand operand(const float* data, int transposition, int row_length) {
  if (transposition == not_transposed) return {data, row_length, 1};
  return {data, 1, row_length};
}

}  // namespace

extern "C" void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a,
                            int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  if (order == column_major) {
    // The transposed equation, b' a' = c', in rows.
    multiply(n, m, k, alpha, operand(b, trans_b, ldb), operand(a, trans_a, lda), beta, c, ldc);
  } else {
    multiply(m, n, k, alpha, operand(a, trans_a, lda), operand(b, trans_b, ldb), beta, c, ldc);
  }
}
