// What each instruction set provides for linear(): products of some rows with one tile of outputs, and the arithmetic
// on rows before and after.
#pragma once

#include "linear.h"
#include "matrix.h"

namespace kr {

// What rounded activations are, and in which order.
enum class Form {
  pairs,    // int16, as tiles unpack weights
  bytes,    // int8, as tiles unpack weights, which have 4 bits
  one_row,  // int16, along the packed weights: every 32 bytes of them meet vectors with the same 32-bit lanes
  // int16 along packed weights of 4 bits: of the 64 inputs of every 32 bytes the even ones' high bytes, the odd ones',
  // the even ones' low bytes, the odd ones'.
  split_row,
  // Like split_row, for weights of other widths: of every sixteen inputs the first eight and the last eight instead of the
  // even and the odd ones.
  split_eights,
  // int16 along packed weights of 2, 3, 5 or 6 bits, like one_row: load_spread() makes the vectors.
  spread_row,
};

// Whether it is for OneRow.
constexpr bool is_one_row(Form form) { return form != Form::pairs && form != Form::bytes; }

// Activations rounded for quantized matrices: integers in an order that suits the packed weights, and for every group
// of inputs the scale of its integers and the sum of its values as rounded.
struct RoundedRows {
  const void* values;   // [rows, inputs] of the form's integers
  const float* scales;  // [rows, inputs / group]
  const float* sums;    // like scales
  int inputs;
  int group;
  Form form;

  size_t value_bytes() const { return form == Form::bytes ? 1 : 2; }
  int groups() const { return inputs / group; }
};

// One thread's memory for unpacking a tile, 64-byte aligned.
struct TileScratch {
  void* unpacked;  // unpacked_bytes(tile_outputs)
  float* scales;   // [scale groups, tile_outputs]
  float* biases;   // like scales
};

// Inputs that are unpacked at a time: enough to hide the turn, few enough for a tile of them to stay in the L1 cache.
constexpr int quantized_block = 512;
constexpr int dense_block = 256;

constexpr size_t unpacked_bytes(int tile_outputs) { return size_t{quantized_block} * 2 * tile_outputs; }
static_assert(quantized_block * 2 == dense_block * sizeof(float));

// What serves a single row from packed weights.
struct OneRow {
  // As TileKernels::quantized, for one row in the form below.
  void (*tile)(const QuantizedMatrix& matrix, int first_output, const RoundedRows& x, int row, float* tile,
               const TileScratch& scratch, bool last);
  // The form in which it takes the row; Form::pairs: it does not serve these weights.
  Form (*form)(const QuantizedMatrix& matrix);
};

struct TileKernels {
  // Outputs of a tile, a whole number of vectors.
  int tile_outputs;
  // Rows from which on a tile is unpacked; that is, which are best served in one go.
  int rows_together;

  // y = x / sqrt(mean(x^2) + eps) * weight.
  void (*normalize)(const float* x, const float* weight, float eps, int inputs, float* y);

  // One row of RoundedRows, in the order for weights of `bits`.
  void (*round)(const float* x, int inputs, int group, int bits, Form form, void* values, float* scales, float* sums);

  // tile[r][o] = x[first_row + r] . matrix[first_output + o], for all outputs of a tile, which must exist. `last` says
  // that nothing of the matrix follows.
  void (*quantized)(const QuantizedMatrix& matrix, int first_output, const RoundedRows& x, int first_row, int rows,
                    float* tile, const TileScratch& scratch, bool last);
  // Null where that is no faster for a single row.
  const OneRow* one_row;
  void (*dense)(const DenseMatrix& matrix, int first_output, const float* x, int first_row, int rows, float* tile,
                const TileScratch& scratch, bool last);

  // y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias; bias may be null.
  void (*normalize_layer)(const float* x, const float* weight, const float* bias, float eps, int inputs, float* y);

  // gate = activation(gate) * up, for a whole number of vectors.
  void (*gate)(Gate activation, float* gate, const float* up, int count);

  // x = cap * tanh(x / cap).
  void (*soft_cap)(float* x, float cap, int count);

  // x = x Phi(x), with the normal distribution's Phi.
  void (*gelu)(float* x, int count);
};

// For the processor this runs on.
const TileKernels& tile_kernels();

extern const TileKernels portable_tile_kernels;
extern const TileKernels avx2_tile_kernels;
extern const TileKernels avx512_tile_kernels;
extern const TileKernels neon_tile_kernels;

extern const OneRow avx2_one_row;
extern const OneRow avx512_one_row;
extern const OneRow avx512vbmi_one_row;

}  // namespace kr
