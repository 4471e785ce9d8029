// Products of rounded activations with quantized weights, for any vector type.
//
// A lane is an output. A group's integer products add up exactly in whatever order; then, group after group,
//   y = y + float(sum of products) * (weight scale * activation scale);  y = y + weight bias * sum of activations
// with one rounding for each line. That chain is the same wherever the output stands in a tile and however many rows
// come along, which makes results independent of the batch.
#pragma once

#include <type_traits>
#include <utility>

#include "chunk.h"
#include "parts.h"
#include "prefetch.h"
#include "tile_kernels.h"
#include "widen_kernel.h"

namespace kr {
namespace {

template <int value>
using Place = std::integral_constant<int, value>;

// The order in which weights of 4 bits come out as bytes, in every eight. Activations are rounded into the same.
constexpr int order_of_bytes(int place) {
  constexpr int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  return order[place];
}

// The pair of weights at `place` in the words of a chunk.
template <class Vec, class Chunk, int place>
KR_INLINE typename Vec::Ints pair_at(const typename Vec::Ints words[4]) {
  constexpr PairPlace pair = Chunk::pair(place);
  typename Vec::Ints weights = words[pair.word];
  if constexpr (pair.shift > 0) weights = Vec::template shift_right_16<pair.shift>(weights);
  if constexpr (pair.shift + Chunk::bits == 16) return weights;
  constexpr uint32_t mask = (1u << Chunk::bits) - 1;
  return Vec::bits_and(weights, Vec::splat_bits(mask << 16 | mask));
}

// Calls take(vector, place) for the pairs at some places of a chunk.
template <class Vec, class Chunk, class Take, int... places>
KR_INLINE void unpack_pairs(const typename Vec::Ints words[4], const Take& take, std::integer_sequence<int, places...>) {
  (take(pair_at<Vec, Chunk, places>(words), Place<places>{}), ...);
}

// The same for a word of floats of 4 bits.
template <class Vec, int word, class Take>
KR_INLINE void unpack_e2m1(typename Vec::Ints packed, const Take& take) {
  const auto nibble = Vec::splat_bits(0x0f0f0f0f), byte = Vec::splat_bits(0x00ff00ff);
  const auto even = Vec::looked_up(doubled_e2m1, Vec::bits_and(packed, nibble));
  const auto odd = Vec::looked_up(doubled_e2m1, Vec::bits_and(Vec::template shift_right_16<4>(packed), nibble));
  take(Vec::bits_and(even, byte), Place<4 * word>{});
  take(Vec::bits_and(odd, byte), Place<4 * word + 1>{});
  take(Vec::template shift_right_16<8>(even), Place<4 * word + 2>{});
  take(Vec::template shift_right_16<8>(odd), Place<4 * word + 3>{});
}

// The same for a word of integers of 4 bits, which come out as bytes.
template <class Vec, int word, class Take>
KR_INLINE void unpack_bytes(typename Vec::Ints packed, const Take& take) {
  const auto nibble = Vec::splat_bits(0x0f0f0f0f);
  take(Vec::bits_and(packed, nibble), Place<2 * word>{});
  take(Vec::bits_and(Vec::template shift_right_16<4>(packed), nibble), Place<2 * word + 1>{});
}

// Calls take(vector, place) for the vectors of integers that a chunk of each lane's row holds; places count through the
// chunk.
template <class Vec, class Products, class Chunk, class Take>
KR_INLINE void unpack_chunk(const uint8_t* packed, size_t stride, const Take& take) {
  typename Vec::Ints words[4];
  Vec::template transposed<Chunk>(packed, stride, words);
  if constexpr (Chunk::is_e2m1) {
    unpack_e2m1<Vec, 0>(words[0], take);
    unpack_e2m1<Vec, 1>(words[1], take);
    unpack_e2m1<Vec, 2>(words[2], take);
    unpack_e2m1<Vec, 3>(words[3], take);
  } else if constexpr (Products::values == 2) {
    unpack_pairs<Vec, Chunk>(words, take, std::make_integer_sequence<int, Chunk::values / 2>{});
  } else {
    static_assert(Chunk::bits == 4);
    unpack_bytes<Vec, 0>(words[0], take);
    unpack_bytes<Vec, 1>(words[1], take);
    unpack_bytes<Vec, 2>(words[2], take);
    unpack_bytes<Vec, 3>(words[3], take);
  }
}

// The groups' chain of float additions: one step of one vector of outputs and one row.
template <class Vec>
KR_INLINE typename Vec::Floats add_group(typename Vec::Floats y, typename Vec::Ints sum, typename Vec::Floats scale,
                                         typename Vec::Floats bias, const float* x_scale, const float* x_sum) {
  y = Vec::fma(Vec::to_floats(sum), Vec::multiply(scale, Vec::splat(*x_scale)), y);
  return Vec::fma(bias, Vec::splat(*x_sum), y);
}

template <class Products>
struct XRows {
  using Value = std::conditional_t<Products::values == 4, int8_t, int16_t>;
  const Value* values;
  const float* scales;
  const float* sums;
  size_t inputs;
  size_t groups;

  XRows(const RoundedRows& x, int row)
      : values(static_cast<const Value*>(x.values) + static_cast<size_t>(row) * x.inputs),
        scales(x.scales + static_cast<size_t>(row) * x.groups()),
        sums(x.sums + static_cast<size_t>(row) * x.groups()),
        inputs(x.inputs),
        groups(x.groups()) {}
};

// One vector of outputs and few rows, from the packed weights: their unpacking fits between the loads.
// `next` is where the matrix goes on; it is asked for in advance, as much of it as is read here.
template <class Vec, class Products, class Chunk, int rows>
void few_rows_product(const uint8_t* packed, size_t stride, Ahead next, const TileScratch& scratch,
                      const XRows<Products> x, int scale_group, int x_group, float* tile) {
  constexpr int width = Vec::lanes * Vec::tile_vectors;
  constexpr int chains = rows == 1 ? 4 : rows == 2 ? 2 : 1;  // sums a row: additions in one chain are slow
  typename Vec::Floats y[rows];
  KR_UNROLL
  for (int r = 0; r < rows; r++) y[r] = Vec::zero();
  const float* scales = scratch.scales;
  const float* biases = scratch.biases;
  const auto* values = x.values;
  size_t left_of_scale = scale_group;
  for (size_t g = 0; g < x.groups; g++) {
    typename Products::Sums sums[rows][chains];
    KR_UNROLL
    for (int r = 0; r < rows; r++) {
      KR_UNROLL
      for (int c = 0; c < chains; c++) sums[r][c] = Products::zero();
    }
    for (int done = 0; done < x_group; done += Chunk::values) {
      Ahead::fetch<Chunk::bytes * Vec::lanes>(next);
      decltype(values) row[rows];
      KR_UNROLL
      for (int r = 0; r < rows; r++) {
        row[r] = values + r * x.inputs;
        asm("" : "+r"(row[r]));  // keeps gcc from an index register for every place of every row
      }
      unpack_chunk<Vec, Products, Chunk>(packed, stride, [&](typename Vec::Ints weights, auto place) {
        constexpr int chain = place % chains;
        KR_UNROLL
        for (int r = 0; r < rows; r++) {
          const auto x_here = Vec::splat_32(row[r] + place * Products::values);
          sums[r][chain] = Products::add_products(sums[r][chain], weights, x_here);
        }
      });
      packed += Chunk::bytes;
      values += Chunk::values;
    }
    const auto scale = Vec::load(scales), bias = Vec::load(biases);
    KR_UNROLL
    for (int r = 0; r < rows; r++) {
      auto total = Products::total(sums[r][0]);
      KR_UNROLL
      for (int c = 1; c < chains; c++) total = Vec::add_ints(total, Products::total(sums[r][c]));
      const size_t at = r * x.groups + g;
      y[r] = add_group<Vec>(y[r], total, scale, bias, x.scales + at, x.sums + at);
    }
    // int16 activations have the weights' groups; those of bytes may be parts of them.
    left_of_scale -= x_group;
    if (Products::values == 2 || left_of_scale == 0) {
      left_of_scale = scale_group;
      scales += width;
      biases += width;
    }
  }
  KR_UNROLL
  for (int r = 0; r < rows; r++) Vec::store(tile + r * width, y[r]);
}

// A tile's weights of `count` inputs, unpacked: [32 bits of inputs][outputs]. `next` as in few_rows_product.
template <class Vec, class Products, class Chunk>
void unpack_block(const uint8_t* packed, size_t stride, int count, Ahead next, void* unpacked) {
  constexpr int vector_bytes = 4 * Vec::lanes;
  for (int v = 0; v < Vec::tile_vectors; v++) {
    const uint8_t* rows = packed + v * Vec::lanes * stride;
    auto* out = static_cast<uint8_t*>(unpacked) + v * vector_bytes;
    for (int done = 0; done < count; done += Chunk::values, rows += Chunk::bytes) {
      Ahead::fetch<Chunk::bytes * Vec::lanes>(next);
      unpack_chunk<Vec, Products, Chunk>(rows, stride, [&](typename Vec::Ints weights, auto place) {
        Vec::store_bits(out + place * vector_bytes * Vec::tile_vectors, weights);
      });
      out += Chunk::values / Products::values * vector_bytes * Vec::tile_vectors;
    }
  }
}

// A block of inputs, from group `first_group` of x on, added to the tile.
template <class Vec, class Products, int rows>
void unpacked_product(const void* unpacked, const float* scales, const float* biases, const XRows<Products> x,
                      int first_group, int group_count, int x_group, int x_groups_a_scale, float* tile) {
  constexpr int vectors = Vec::tile_vectors;
  constexpr int width = Vec::lanes * vectors;
  const auto* weights = static_cast<const uint8_t*>(unpacked);
  const auto* values = x.values + static_cast<size_t>(first_group) * x_group;
  int left_of_scale = x_groups_a_scale;
  for (int g = first_group; g < first_group + group_count; g++) {
    typename Products::Sums sums[rows][vectors];
    KR_UNROLL
    for (int r = 0; r < rows; r++) {
      KR_UNROLL
      for (int v = 0; v < vectors; v++) sums[r][v] = Products::zero();
    }
    for (int k = 0; k < x_group; k += Products::values) {
      typename Vec::Ints w[vectors];
      KR_UNROLL
      for (int v = 0; v < vectors; v++) w[v] = Vec::load_bits(weights + v * 4 * Vec::lanes);
      KR_UNROLL
      for (int r = 0; r < rows; r++) {
        const auto x_here = Vec::splat_32(values + r * x.inputs);
        KR_UNROLL
        for (int v = 0; v < vectors; v++) sums[r][v] = Products::add_products(sums[r][v], w[v], x_here);
      }
      weights += 4 * width;
      values += Products::values;
    }
    // The tile stays in memory: all registers are taken while sums grow.
    asm volatile("" ::: "memory");
    KR_UNROLL
    for (int v = 0; v < vectors; v++) {
      const auto scale = Vec::load(scales + v * Vec::lanes), bias = Vec::load(biases + v * Vec::lanes);
      KR_UNROLL
      for (int r = 0; r < rows; r++) {
        const size_t at = r * x.groups + g;
        float* y = tile + r * width + v * Vec::lanes;
        const auto sum = Products::total(sums[r][v]);
        Vec::store(y, add_group<Vec>(Vec::load(y), sum, scale, bias, x.scales + at, x.sums + at));
      }
    }
    if (--left_of_scale == 0) {
      left_of_scale = x_groups_a_scale;
      scales += width;
      biases += width;
    }
  }
}

template <class Vec, class Products, class Chunk>
void quantized_tile_of(const QuantizedMatrix& matrix, int first_output, const RoundedRows& x, int first_row, int rows,
                       float* tile, const TileScratch& scratch, bool last) {
  constexpr int width = Vec::lanes * Vec::tile_vectors;
  const int scale_groups = matrix.inputs / matrix.group;
  const size_t stride = static_cast<size_t>(matrix.inputs) * Chunk::bits / 8;
  const uint8_t* packed = matrix.packed + first_output * stride;
  if constexpr (Chunk::is_e2m1) {
    const auto* scales = static_cast<const uint8_t*>(matrix.scales) + static_cast<size_t>(first_output) * scale_groups;
    e2m1_columns<Vec, Vec::tile_vectors, width>(scales, scale_groups, scratch.scales, scratch.biases);
  } else {
    const size_t first_scale = static_cast<size_t>(first_output) * scale_groups * float_bytes(matrix.type);
    const size_t tile_scales = width * scale_groups * float_bytes(matrix.type);
    const char* scales = static_cast<const char*>(matrix.scales) + first_scale;
    const char* biases = static_cast<const char*>(matrix.biases) + first_scale;
    widen_columns<Vec>(scales, matrix.type, scale_groups, scale_groups, last ? nullptr : scales + tile_scales,
                       scratch.scales);
    widen_columns<Vec>(biases, matrix.type, scale_groups, scale_groups, last ? nullptr : biases + tile_scales,
                       scratch.biases);
  }

  // Unpacking twice what unpacks easily is still faster than writing it to memory and reading it from there.
  constexpr int passes = Chunk::is_spread_out && Chunk::bits <= 4 ? 2 : 1;
  if (rows <= passes * Vec::few_rows) {
    for (int v = 0; v < Vec::tile_vectors; v++) {
      const uint8_t* here = packed + v * Vec::lanes * stride;
      const TileScratch there{nullptr, scratch.scales + v * Vec::lanes, scratch.biases + v * Vec::lanes};
      in_even_parts<Vec::few_rows>(rows, [&](int first, auto constant) {
        const size_t distance = last || first > 0 ? 0 : Vec::lanes * stride;
        few_rows_product<Vec, Products, Chunk, constant>(
            here, stride, Ahead(here + distance, distance), there, XRows<Products>(x, first_row + first), matrix.group,
            x.group, tile + first * width + v * Vec::lanes);
      });
    }
    return;
  }

  for (int i = 0; i < rows * width; i += Vec::lanes) Vec::store(tile + i, Vec::zero());
  for (int k = 0; k < matrix.inputs; k += quantized_block) {
    const int inputs = matrix.inputs - k < quantized_block ? matrix.inputs - k : quantized_block;
    const size_t byte = static_cast<size_t>(k) * Chunk::bits / 8;
    const Ahead next(last ? packed : packed + width * (stride + byte), width * stride);
    unpack_block<Vec, Products, Chunk>(packed + byte, stride, inputs, next, scratch.unpacked);
    const size_t scale_at = static_cast<size_t>(k / matrix.group) * width;
    in_even_parts<Vec::tile_rows>(rows, [&](int first, auto constant) {
      unpacked_product<Vec, Products, constant>(scratch.unpacked, scratch.scales + scale_at, scratch.biases + scale_at,
                                                XRows<Products>(x, first_row + first), k / x.group, inputs / x.group,
                                                x.group, matrix.group / x.group, tile + first * width);
    });
  }
}

template <class Vec>
void quantized_tile(const QuantizedMatrix& matrix, int first_output, const RoundedRows& x, int first_row, int rows,
                    float* tile, const TileScratch& scratch, bool last) {
  const auto run = [&]<class Products, class Chunk>() {
    quantized_tile_of<Vec, Products, Chunk>(matrix, first_output, x, first_row, rows, tile, scratch, last);
  };
  if (matrix.packing == Packing::mxfp4) return run.template operator()<typename Vec::Pairs, E2m1Chunk>();
  if (x.form == Form::bytes) return run.template operator()<typename Vec::Quads, Chunk<4>>();
  with_bits(matrix.bits, [&](auto bits) { run.template operator()<typename Vec::Pairs, Chunk<bits>>(); });
}

}  // namespace
}  // namespace kr
