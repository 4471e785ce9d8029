// Arithmetic on single rows before and after the products, for any vector type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "exponential.h"
#include "quantized_kernel.h"

namespace kr {
namespace {

// The sum of a vector's lanes, in their order.
template <class Vec>
KR_INLINE float sum_of_lanes(typename Vec::Floats x) {
  float lanes[Vec::lanes];
  Vec::store(lanes, x);
  float sum = lanes[0];
  for (int i = 1; i < Vec::lanes; i++) sum += lanes[i];
  return sum;
}

// The sum of values or of their squares, in an order that does not depend on the vectors' length: sixteen chains, of every
// sixteenth value each; the ninth chain is added to the first and so on, then those eight in their order, then the values
// left over.
template <class Vec, bool squared>
KR_INLINE float sum_of(const float* x, int inputs) {
  constexpr int chains = 16, vectors = chains / Vec::lanes;
  typename Vec::Floats sums[vectors];
  for (auto& sum : sums) sum = Vec::zero();
  int i = 0;
  for (; i + chains <= inputs; i += chains) {
    for (int v = 0; v < vectors; v++) {
      const auto here = Vec::load(x + i + v * Vec::lanes);
      sums[v] = squared ? Vec::fma(here, here, sums[v]) : Vec::add(here, sums[v]);
    }
  }
  float chain[chains];
  for (int v = 0; v < vectors; v++) Vec::store(chain + v * Vec::lanes, sums[v]);
  float sum = chain[0] + chain[chains / 2];
  for (int c = 1; c < chains / 2; c++) sum += chain[c] + chain[c + chains / 2];
  for (; i < inputs; i++) sum += squared ? x[i] * x[i] : x[i];
  return sum;
}

template <class Vec>
void normalize_row(const float* x, const float* weight, float eps, int inputs, float* y) {
  constexpr int lanes = Vec::lanes;
  const float squares = sum_of<Vec, true>(x, inputs);
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(inputs) + eps);
  int i = 0;
  for (; i + lanes <= inputs; i += lanes) {
    Vec::store(y + i, Vec::multiply(Vec::multiply(Vec::load(x + i), Vec::splat(factor)), Vec::load(weight + i)));
  }
  for (; i < inputs; i++) y[i] = x[i] * factor * weight[i];
}

template <class Vec>
void normalize_layer_row(const float* x, const float* weight, const float* bias, float eps, int inputs, float* y) {
  const float mean = sum_of<Vec, false>(x, inputs) / static_cast<float>(inputs);
  for (int i = 0; i < inputs; i++) y[i] = x[i] - mean;
  const float variance = sum_of<Vec, true>(y, inputs) / static_cast<float>(inputs);
  const float factor = 1.0f / sqrtf(variance + eps);
  for (int i = 0; i < inputs; i++) y[i] = y[i] * factor * weight[i];
  if (!bias) return;
  for (int i = 0; i < inputs; i++) y[i] += bias[i];
}

// A group's integers, the first of which is number `first` of its row, written in the order of their form.

static inline void place_bytes(const int32_t* rounded, int group, size_t first, int8_t* values) {
  for (int i = 0; i < group; i++) values[first + i] = static_cast<int8_t>(rounded[i / 8 * 8 + order_of_bytes(i % 8)]);
}

// Of every 32 inputs sixteen and then the others: every other `run` of them.
template <int run>
void place_split(const int32_t* rounded, int group, size_t first, uint8_t* values) {
  constexpr size_t vector_inputs = 64, part = vector_inputs / 2;  // bytes; a vector's inputs take four parts
  constexpr int together = 32;  // of a group, whole numbers of which are its inputs and a vector's
  for (int done = 0; done < group; done += together, first += together, rounded += together) {
    uint8_t* out = values + first / vector_inputs * 4 * part + first % vector_inputs / 2;
    for (int i = 0; i < together / 2; i++) {
      const int at = i / run * 2 * run + i % run;
      const int32_t one = rounded[at], other = rounded[at + run];
      out[i] = static_cast<uint8_t>(one >> 8);
      out[i + part] = static_cast<uint8_t>(other >> 8);
      out[i + 2 * part] = static_cast<uint8_t>(one);
      out[i + 3 * part] = static_cast<uint8_t>(other);
    }
  }
}

// A pair of 16 bits, `pairs` apart, is written as one 32-bit word.
template <int pairs, Form form>
void place_words(const int32_t* rounded, int group, size_t first, uint32_t* values) {
  constexpr int values_a_lane = 2 * pairs, lanes_a_vector = 8;
  uint32_t* out = values + first / 2;
  const auto pair = [&](int lane, int place) {
    const int32_t* from = rounded + lane * values_a_lane + place;
    return (static_cast<uint32_t>(from[0]) & 0xffff) | static_cast<uint32_t>(from[pairs]) << 16;
  };
  if constexpr (form == Form::pairs) {
    for (int lane = 0; lane < group / values_a_lane; lane++) {
      for (int place = 0; place < pairs; place++) out[lane * pairs + place] = pair(lane, place);
    }
  } else {
    // A vector's lanes may come from two groups.
    const int first_lane = static_cast<int>(first / values_a_lane % lanes_a_vector);
    out -= first_lane * pairs;
    for (int lane = 0; lane < group / values_a_lane; lane++) {
      const int at = first_lane + lane;
      uint32_t* vector = out + at / lanes_a_vector * lanes_a_vector * pairs + at % lanes_a_vector;
      for (int place = 0; place < pairs; place++) vector[place * lanes_a_vector] = pair(lane, place);
    }
  }
}

// How weights lie in a vector that load_spread() makes: a lane has pairs of them at some `places`; a pair is a weight and
// the one `half` a block after it.
template <int bits>
struct SpreadOrder {
  static constexpr int half = bits == 2 || bits == 6 ? 4 : 8;
  static constexpr int places = bits < 4 ? 4 : 2;
};

template <int bits>
void place_spread_row(const int32_t* rounded, int group, size_t first, uint32_t* values) {
  constexpr int half = SpreadOrder<bits>::half, places = SpreadOrder<bits>::places;
  constexpr int block = 2 * half, lanes_a_block = half / places, lanes_a_vector = 8;
  constexpr int blocks_a_vector = lanes_a_vector / lanes_a_block;
  for (int done = 0; done < group; done += block, first += block, rounded += block) {
    const size_t number = first / block;
    uint32_t* lanes = values + number / blocks_a_vector * lanes_a_vector * places + number % blocks_a_vector * lanes_a_block;
    for (int i = 0; i < half; i++) {
      const uint32_t pair = (static_cast<uint32_t>(rounded[i]) & 0xffff) | static_cast<uint32_t>(rounded[i + half]) << 16;
      lanes[i % places * lanes_a_vector + i / places] = pair;
    }
  }
}

template <int bits, Form form>
void place_group(const int32_t* rounded, int group, size_t first, void* values) {
  if constexpr (form == Form::bytes) {
    place_bytes(rounded, group, first, static_cast<int8_t*>(values));
  } else if constexpr (form == Form::split_row) {
    place_split<1>(rounded, group, first, static_cast<uint8_t*>(values));
  } else if constexpr (form == Form::split_eights) {
    place_split<8>(rounded, group, first, static_cast<uint8_t*>(values));
  } else if constexpr (form == Form::spread_row) {
    place_spread_row<bits>(rounded, group, first, static_cast<uint32_t*>(values));
  } else {
    place_words<half_block(bits), form>(rounded, group, first, static_cast<uint32_t*>(values));
  }
}

// One row. Infinities and NaNs show in the group's scale or sum.
template <class Vec, int bits, Form form>
void round_row_of(const float* x, int inputs, int group, void* values, float* scales, float* sums) {
  constexpr float most = form == Form::bytes ? 127.0f : 32767.0f;
  constexpr int lanes = Vec::lanes;
  for (int g = 0; g < inputs / group; g++, x += group) {
    auto largest = Vec::zero(), sum = Vec::zero();
    for (int i = 0; i < group; i += lanes) {
      const auto here = Vec::load(x + i);
      largest = Vec::max(largest, Vec::magnitude(here));
      sum = Vec::add(sum, here);
    }
    float magnitudes[lanes];
    Vec::store(magnitudes, largest);
    float magnitude = magnitudes[0];
    for (int i = 1; i < lanes; i++) magnitude = magnitudes[i] > magnitude ? magnitudes[i] : magnitude;
    // Below this the factor would overflow; nothing of such a group is visible beside its sum.
    const bool vanishes = magnitude < 1e-30f;
    scales[g] = vanishes ? 0.0f : magnitude / most;
    const float plain_sum = sum_of_lanes<Vec>(sum);

    const auto factor = Vec::splat(vanishes ? 0.0f : most / magnitude);
    int32_t rounded[128];
    for (int i = 0; i < group; i += lanes) {
      Vec::store_bits(rounded + i, Vec::round(Vec::multiply(Vec::load(x + i), factor)));
    }
    // The sum of the rounded values, exactly: it meets the weights' bias, and most of what rounding does to the
    // products with the weights' unsigned values is taken back by what it does to this.
    // Unsigned, since NaNs become INT32_MIN on x86, whose sum would be undefined; it is not used.
    uint32_t rounded_sum = 0;
    for (int i = 0; i < group; i++) rounded_sum += static_cast<uint32_t>(rounded[i]);
    sums[g] = scales[g] * static_cast<float>(static_cast<int32_t>(rounded_sum));
    if (vanishes || !std::isfinite(plain_sum)) {
      sums[g] = 0;
      for (int i = 0; i < group; i++) sums[g] += x[i];
    }
    place_group<bits, form>(rounded, group, static_cast<size_t>(g) * group, values);
  }
}

template <class Vec>
void round_row(const float* x, int inputs, int group, int bits, Form form, void* values, float* scales, float* sums) {
  const auto run = [&](auto constant) {
    with_bits(bits, [&](auto width) {
      round_row_of<Vec, width, constant>(x, inputs, group, values, scales, sums);
    });
  };
  switch (form) {
    case Form::pairs:
      return run(std::integral_constant<Form, Form::pairs>{});
    case Form::bytes:
      return run(std::integral_constant<Form, Form::bytes>{});
    case Form::one_row:
      return run(std::integral_constant<Form, Form::one_row>{});
    case Form::split_row:
      return run(std::integral_constant<Form, Form::split_row>{});
    case Form::split_eights:
      return run(std::integral_constant<Form, Form::split_eights>{});
    case Form::spread_row:
      return run(std::integral_constant<Form, Form::spread_row>{});
  }
}

template <class Vec>
void gate_rows(Gate activation, float* gate, const float* up, int count) {
  const auto each = [&](auto function) {
    for (int i = 0; i < count; i += Vec::lanes) {
      Vec::store(gate + i, function(Vec::load(gate + i), Vec::load(up + i)));
    }
  };
  switch (activation) {
    case Gate::gelu_tanh:
      return each([](auto x, auto up) { return Vec::multiply(gelu_tanh<Vec>(x), up); });
    case Gate::swiglu_oai:
      return each([](auto x, auto up) { return swiglu_oai<Vec>(x, up); });
    default:
      return each([](auto x, auto up) { return Vec::multiply(silu<Vec>(x), up); });
  }
}

// Each value by itself, in vectors to the end: the last ones are padded.
template <class Vec, class Function>
KR_INLINE void each_value(float* x, int count, Function function) {
  int i = 0;
  for (; i + Vec::lanes <= count; i += Vec::lanes) Vec::store(x + i, function(Vec::load(x + i)));
  if (i == count) return;
  float rest[Vec::lanes] = {};
  std::memcpy(rest, x + i, static_cast<size_t>(count - i) * sizeof(float));
  Vec::store(rest, function(Vec::load(rest)));
  std::memcpy(x + i, rest, static_cast<size_t>(count - i) * sizeof(float));
}

template <class Vec>
void soft_cap_row(float* x, float cap, int count) {
  const auto share = Vec::splat(1.0f / cap), most = Vec::splat(cap);
  each_value<Vec>(x, count, [&](auto value) {
    return Vec::multiply(hyperbolic_tangent<Vec>(Vec::multiply(value, share)), most);
  });
}

template <class Vec>
void gelu_row(float* x, int count) {
  each_value<Vec>(x, count, [](auto value) { return gelu<Vec>(value); });
}

// `Rounds` is the vector type that rounds: groups are short, and bringing a long vector's lanes together takes time.
template <class Vec, class Rounds = Vec>
constexpr TileKernels tile_kernels_of(const OneRow* one_row = nullptr) {
  return TileKernels{
      .tile_outputs = Vec::lanes * Vec::tile_vectors,
      .rows_together = Vec::tile_rows,
      .normalize = normalize_row<Vec>,
      .round = round_row<Rounds>,
      .quantized = quantized_tile<Vec>,
      .one_row = one_row,
      .dense = dense_tile<Vec>,
      .normalize_layer = normalize_layer_row<Vec>,
      .gate = gate_rows<Vec>,
      .soft_cap = soft_cap_row<Vec>,
      .gelu = gelu_row<Vec>,
  };
}

}  // namespace
}  // namespace kr
