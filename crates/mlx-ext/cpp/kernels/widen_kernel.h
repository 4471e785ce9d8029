// Columns of a tile of row-major floats of any type, as vectors of float32 with an output a lane.
#pragma once

#include "chunk.h"
#include "floats.h"
#include "prefetch.h"

namespace kr {
namespace {

template <class Vec>
KR_INLINE void widen_block(const uint8_t* rows, size_t stride, Float type, float* out, size_t out_stride) {
  typename Vec::Ints columns[4];
  Vec::template transposed<PlainChunk>(rows, stride, columns);
  for (int j = 0; j < 4; j++) {
    if (type == Float::f32) {
      Vec::store_bits(out + j * out_stride, columns[j]);
    } else {
      typename Vec::Floats low, high;
      Vec::widen(columns[j], type, low, high);
      Vec::store(out + 2 * j * out_stride, low);
      Vec::store(out + (2 * j + 1) * out_stride, high);
    }
  }
}

// out[c][o] = values[o][c] for the outputs of a tile; `row_values` is the distance of rows. Reads nothing outside
// these columns. As many bytes from `next` on, if it is not null, are asked for in advance.
template <class Vec, Float type>
void widen_columns_of(const void* values, size_t row_values, int columns, const char* next, float* out) {
  constexpr int width = Vec::lanes * Vec::tile_vectors;
  constexpr int block = type == Float::f32 ? 4 : 8;  // columns in 16 bytes
  constexpr size_t value_bytes = type == Float::f32 ? 4 : 2;
  const auto* rows = static_cast<const uint8_t*>(values);
  if (columns < block) {
    for (int o = 0; o < width; o++) {
      for (int c = 0; c < columns; c++) out[c * width + o] = float_at(values, type, o * row_values + c);
    }
    return;
  }
  Ahead ahead(next, width * row_values * value_bytes);
  for (int v = 0; v < Vec::tile_vectors; v++) {
    const uint8_t* first = rows + v * Vec::lanes * row_values * value_bytes;
    for (int c = 0; c < columns; c += block) {
      if (c + block > columns) c = columns - block;  // the last block again covers some columns of the one before
      if (next) Ahead::fetch<16 * Vec::lanes>(ahead);
      float* to = out + c * width + v * Vec::lanes;
      widen_block<Vec>(first + c * value_bytes, row_values * value_bytes, type, to, width);
    }
  }
}

template <class Vec>
void widen_columns(const void* values, Float type, size_t row_values, int columns, const char* next, float* out) {
  switch (type) {
    case Float::f32:
      return widen_columns_of<Vec, Float::f32>(values, row_values, columns, next, out);
    case Float::f16:
      return widen_columns_of<Vec, Float::f16>(values, row_values, columns, next, out);
    case Float::bf16:
      return widen_columns_of<Vec, Float::bf16>(values, row_values, columns, next, out);
  }
}

// Scales and biases with which doubled_e2m1 are the floats that they stand for: of some vectors of outputs, from the
// exponents that are stored. Reads nothing outside of these. `width` is the distance of columns.
template <class Vec, int vectors, int width>
void e2m1_columns(const uint8_t* exponents, int columns, float* scales, float* biases) {
  constexpr int block = 16;
  if (columns < block) {
    for (int o = 0; o < Vec::lanes * vectors; o++) {
      for (int c = 0; c < columns; c++) {
        const float scale = 0.5f * e8m0_to_float(exponents[o * columns + c]);
        scales[c * width + o] = scale;
        biases[c * width + o] = -e2m1_offset * scale;
      }
    }
    return;
  }
  const auto store = [&](int at, typename Vec::Ints exponent) {
    // As e8m0_to_float: 0 stands for 2^-127.
    const auto power = Vec::power_of_two(Vec::add_ints(exponent, Vec::splat_bits(-127u)));
    const auto scale = Vec::multiply(Vec::max(power, Vec::splat(0x1p-127f)), Vec::splat(0.5f));
    Vec::store(scales + at, scale);
    Vec::store(biases + at, Vec::multiply(scale, Vec::splat(-e2m1_offset)));
  };
  for (int v = 0; v < vectors; v++) {
    const uint8_t* first = exponents + static_cast<size_t>(v) * Vec::lanes * columns;
    for (int c = 0; c < columns; c += block) {
      if (c + block > columns) c = columns - block;  // the last block again covers some columns of the one before
      typename Vec::Ints words[4];
      Vec::template transposed<PlainChunk>(first + c, columns, words);
      const auto byte = Vec::splat_bits(0xff);
      for (int j = 0; j < 4; j++) {
        const int at = (c + 4 * j) * width + v * Vec::lanes;
        store(at, Vec::bits_and(words[j], byte));
        store(at + width, Vec::bits_and(Vec::template shift_right_32<8>(words[j]), byte));
        store(at + 2 * width, Vec::bits_and(Vec::template shift_right_32<16>(words[j]), byte));
        store(at + 3 * width, Vec::template shift_right_32<24>(words[j]));
      }
    }
  }
}

}  // namespace
}  // namespace kr
