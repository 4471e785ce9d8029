// Products of one row of activations with quantized weights, in vectors of AVX2's 256 bits. `Products` are those of one
// instruction set: how rounded activations are loaded, and how they meet a vector of packed weights.
//
// Where a lane is an output, packed weights have to be transposed, which a single row's products do not repay. Here a
// vector runs along the inputs of an output, and only the sums of a group are brought together, an output a lane, for
// the chain of floats. Integers add up exactly in any order, so that results equal those of the tiles bit for bit.
#pragma once

#include "quantized_kernel.h"
#include "vector_avx2.h"

namespace kr {
namespace {

constexpr int one_row_outputs = 8;  // taken together

// Inputs of each output that are taken together.
template <class Products, int bits>
constexpr int step_inputs = Products::template bytes<bits> * 8 / bits;

// The sums of eight outputs' products with some inputs, an output a lane: with the first half of those, and with the second.
// If a group is that half, they are the groups'; otherwise they are added up.
struct EightSums {
  __m256i first, second;
};

// Each half's four lanes added up, the odd ones shifted down: a's sum, b's, c's and d's of the low half, then of the high
// half.
template <int odd_lanes_down>
KR_INLINE __m256i sums_of_halves(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  __m256i odd = _mm256_unpackhi_epi64(ab, cd);
  if constexpr (odd_lanes_down > 0) odd = _mm256_srai_epi32(odd, odd_lanes_down);
  return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), odd);
}

// Eight outputs' sums where `Products` gives those of one, in eight lanes, whose odd ones hold multiples.
template <class Products, class Chunk, int odd_lanes_down, class X>
KR_INLINE EightSums sums_one_by_one(const uint8_t* packed, size_t stride, const X& x) {
  const auto four = [&](const uint8_t* from) {
    __m256i sums[4];
    for (int o = 0; o < 4; o++) {
      sums[o] = Products::template sums<Chunk>(Products::template load_weights<Chunk::bits>(from + o * stride), x);
    }
    return sums_of_halves<odd_lanes_down>(sums[0], sums[1], sums[2], sums[3]);
  };
  const __m256i low = four(packed), high = four(packed + 4 * stride);
  return {_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
}

// A group's scales and biases of eight outputs, an output a lane, in the type in which they are stored.
template <Float type>
struct ScaleColumns {
  std::conditional_t<type == Float::f32, float, uint16_t> scales[8], biases[8];
};

template <Float type>
KR_INLINE __m256 widened(const decltype(ScaleColumns<type>::scales)& values) {
  if constexpr (type == Float::f32) {
    return _mm256_loadu_ps(values);
  } else {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    if constexpr (type == Float::f16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
}

// Columns of eight groups of eight outputs, each of which has `groups` scales and biases.
template <Float type>
KR_INLINE void eight_columns(const uint16_t* scales, const uint16_t* biases, size_t groups, ScaleColumns<type>* out) {
  __m256i rows[8], twos[8], fours[8];
  for (int o = 0; o < 8; o++) {
    const auto half = [&](const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + o * groups)); };
    rows[o] = _mm256_inserti128_si256(_mm256_castsi128_si256(half(scales)), half(biases), 1);
  }
  for (int o = 0; o < 8; o += 2) {
    twos[o] = _mm256_unpacklo_epi16(rows[o], rows[o + 1]);
    twos[o + 1] = _mm256_unpackhi_epi16(rows[o], rows[o + 1]);
  }
  for (int o = 0; o < 8; o += 4) {
    for (int half = 0; half < 2; half++) {
      fours[o + 2 * half] = _mm256_unpacklo_epi32(twos[o + half], twos[o + 2 + half]);
      fours[o + 2 * half + 1] = _mm256_unpackhi_epi32(twos[o + half], twos[o + 2 + half]);
    }
  }
  for (int g = 0; g < 8; g++) {
    const __m256i low = fours[g / 2], high = fours[g / 2 + 4];
    Avx2::store_bits(out + g, g % 2 ? _mm256_unpackhi_epi64(low, high) : _mm256_unpacklo_epi64(low, high));
  }
}

// How many outputs ahead weights are asked for, of those that are `left`; 0 if there are not so many. What comes from memory
// takes longer than eight short rows do.
KR_INLINE int outputs_ahead(size_t stride, int left) {
  constexpr size_t least_bytes = 4 * 1024;
  const size_t eight_rows = one_row_outputs * stride;
  const int ahead = static_cast<int>((least_bytes + eight_rows - 1) / eight_rows) * one_row_outputs;
  return ahead < left ? ahead : 0;
}

// Columns of all groups of eight outputs. Those of as many that come `ahead` outputs later are asked for: they lie apart
// from the packed weights, and the processor does not foresee them.
template <Float type>
KR_INLINE void columns_of(const QuantizedMatrix& matrix, int first_output, int ahead, ScaleColumns<type>* out) {
  using Value = std::remove_reference_t<decltype(out->scales[0])>;
  const size_t groups = matrix.inputs / matrix.group;
  const auto* scales = static_cast<const Value*>(matrix.scales) + first_output * groups;
  const auto* biases = static_cast<const Value*>(matrix.biases) + first_output * groups;
  for (size_t i = 0; ahead > 0 && i < one_row_outputs * groups; i += 64 / sizeof(Value)) {
    __builtin_prefetch(scales + ahead * groups + i);
    __builtin_prefetch(biases + ahead * groups + i);
  }
  if constexpr (type != Float::f32) {
    for (size_t g = 0; groups >= 8 && g < groups; g += 8) {
      if (g + 8 > groups) g = groups - 8;  // the last eight again cover some of those before
      eight_columns<type>(scales + g, biases + g, groups, out + g);
    }
    if (groups >= 8) return;
  }
  for (size_t g = 0; g < groups; g++) {
    for (int o = 0; o < one_row_outputs; o++) {
      out[g].scales[o] = scales[o * groups + g];
      out[g].biases[o] = biases[o * groups + g];
    }
  }
}

// One row of activations, and where a group of them stands.
struct RoundedRow {
  const int16_t* values;
  const float* scales;
  const float* sums;
};

// Eight outputs. `halves` says that a step's inputs are two groups; otherwise `steps` of them are one.
template <class Products, class Chunk, bool halves, Float type>
KR_INLINE void eight_outputs(const uint8_t* packed, size_t stride, Ahead next, const ScaleColumns<type>* columns,
                             RoundedRow x, int inputs, int steps, float* y_out) {
  constexpr int bits = Chunk::bits, bytes = Products::template bytes<bits>;
  __m256 y = _mm256_setzero_ps();
  const auto add = [&](__m256i sums) {
    y = add_group<Avx2>(y, sums, widened<type>(columns->scales), widened<type>(columns->biases), x.scales++, x.sums++);
    columns++;
  };
  // Sums of complete groups meet the floats a turn later: the chain then waits for nothing.
  __m256i complete[2], group = _mm256_setzero_si256();
  int complete_count = 0, left = steps;
  for (int k = 0; k < inputs; k += step_inputs<Products, bits>) {
    for (int i = 0; i < complete_count; i++) add(complete[i]);
    Ahead::fetch<bytes * one_row_outputs>(next);
    const EightSums sums = Products::template eight_sums<Chunk>(packed, stride, Products::template load<bits>(x.values));
    if constexpr (halves) {
      complete[0] = sums.first;
      complete[1] = sums.second;
      complete_count = 2;
    } else {
      group = _mm256_add_epi32(group, _mm256_add_epi32(sums.first, sums.second));
      complete_count = --left == 0;
      if (left == 0) {
        complete[0] = group;
        group = _mm256_setzero_si256();
        left = steps;
      }
    }
    packed += bytes;
    x.values += step_inputs<Products, bits>;
  }
  for (int i = 0; i < complete_count; i++) add(complete[i]);
  _mm256_storeu_ps(y_out, y);
}

template <class Products, int tile_outputs, class Chunk, bool halves, Float type>
KR_INLINE void one_row_tile_of(const QuantizedMatrix& matrix, int first_output, const RoundedRow& x, float* tile,
                               const TileScratch& scratch, bool last) {
  constexpr int bits = Chunk::bits;
  const size_t stride = static_cast<size_t>(matrix.inputs) * bits / 8;
  auto* columns = reinterpret_cast<ScaleColumns<type>*>(scratch.scales);
  for (int o = 0; o < tile_outputs; o += one_row_outputs) {
    const uint8_t* packed = matrix.packed + (first_output + o) * stride;
    const int ahead = outputs_ahead(stride, last ? tile_outputs - o : matrix.outputs - first_output - o);
    const size_t distance = ahead * stride;
    const Ahead next(packed + distance, distance);
    if constexpr (Chunk::is_e2m1) {
      const int groups = matrix.inputs / matrix.group;
      const auto* exponents = static_cast<const uint8_t*>(matrix.scales) + static_cast<size_t>(first_output + o) * groups;
      e2m1_columns<Avx2, 1, sizeof *columns / sizeof(float)>(exponents, groups, columns->scales, columns->biases);
    } else {
      columns_of<type>(matrix, first_output + o, ahead, columns);
    }
    eight_outputs<Products, Chunk, halves, type>(packed, stride, next, columns, x, matrix.inputs,
                                                matrix.group / step_inputs<Products, bits>, tile + o);
  }
}

// OneRow::tile.
template <class Products, int tile_outputs>
void one_row_tile(const QuantizedMatrix& matrix, int first_output, const RoundedRows& x, int row, float* tile,
                  const TileScratch& scratch, bool last) {
  const size_t at = static_cast<size_t>(row) * x.groups();
  const RoundedRow one{static_cast<const int16_t*>(x.values) + static_cast<size_t>(row) * x.inputs, x.scales + at,
                       x.sums + at};
  const auto run = [&]<class Chunk, bool halves, Float type>() {
    one_row_tile_of<Products, tile_outputs, Chunk, halves, type>(matrix, first_output, one, tile, scratch, last);
  };
  const auto with_type = [&]<class Chunk, bool halves>() {
    switch (matrix.type) {
      case Float::f32:
        return run.template operator()<Chunk, halves, Float::f32>();
      case Float::f16:
        return run.template operator()<Chunk, halves, Float::f16>();
      case Float::bf16:
        return run.template operator()<Chunk, halves, Float::bf16>();
    }
  };
  if (matrix.packing == Packing::mxfp4) return run.template operator()<E2m1Chunk, true, Float::f32>();
  with_bits(matrix.bits, [&](auto bits) {
    if constexpr (Products::form(bits) != Form::pairs) {
      // A step of 64 inputs may be two groups.
      if constexpr (step_inputs<Products, bits> == 64) {
        if (matrix.group == 32) return with_type.template operator()<Chunk<bits>, true>();
      }
      with_type.template operator()<Chunk<bits>, false>();
    }
  });
}

// OneRow::form.
template <class Products>
Form one_row_form(const QuantizedMatrix& matrix) {
  Form form = Form::pairs;
  with_bits(matrix.bits, [&](auto bits) {
    if (matrix.inputs % step_inputs<Products, bits> == 0) form = Products::form(bits);
  });
  return form;
}

template <class Products, int tile_outputs>
constexpr OneRow one_row_of() {
  return {one_row_tile<Products, tile_outputs>, one_row_form<Products>};
}

}  // namespace
}  // namespace kr
