// The inner loops over one tile of keys or values. Included by one translation unit per instruction set, after its vectors
// (attention_vectors.h), in the same unnamed namespace: no symbol of these may be shared between units.
#pragma once

#include "attention_kernels.h"
#include "attention_vectors.h"

namespace kr {
namespace {

constexpr float log2_e = 1.44269504088896340736f;

// 2^f for f in [-1/2, 1/2], to 6e-9: 1 + f q(f), q interpolating (2^f - 1) / f at the Chebyshev nodes of that interval.
template <class V>
typename V::Vector exp2_of_fraction(typename V::Vector f) {
  auto y = V::broadcast(1.5453163e-4f);
  y = fma(y, f, V::broadcast(1.3390863e-3f));
  y = fma(y, f, V::broadcast(9.6180826e-3f));
  y = fma(y, f, V::broadcast(5.5503571e-2f));
  y = fma(y, f, V::broadcast(2.40226508e-1f));
  y = fma(y, f, V::broadcast(6.93147188e-1f));
  y = fma(y, f, V::broadcast(1.0f));
  return y;
}

// 2^x for x <= 0, to about one unit in the last place; 0 where the result would be below 2^-125.
template <class V>
typename V::Vector exp2_of_negative(typename V::Vector x) {
  const float smallest = -125.0f;
  auto clamped = maximum(V::broadcast(smallest), x);
  auto whole = round_to_even(clamped);
  auto y = exp2_of_fraction<V>(sub(clamped, whole));
  return zero_where_less(times_power_of_two(y, whole), x, V::broadcast(smallest));
}

float exp2_of_negative(float x) { return first_lane(exp2_of_negative<Eight>(broadcast(x))); }

// Asks for `bytes` at `from` to be brought near.
template <int bytes>
void prefetch(const void* from) {
  for (int line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(from) + line);
}

// sums[r][s][..] += factors[r * stride] * at[s][..]. The sums stay in registers only if this is inlined.
template <class V, int rows, int strips, int vectors, class Stored>
[[gnu::always_inline]] inline void multiply_add(const float* factors, int stride, const Stored* const (&at)[strips],
                  typename V::Vector (&sums)[rows][strips][vectors]) {
  // Beside the sums, the registers hold either all rows' factors or all of the strips' vectors: the fewer of them.
  if constexpr (rows <= strips * vectors) {
    typename V::Vector factor[rows];
    for (int r = 0; r < rows; ++r) factor[r] = V::broadcast(factors[r * stride]);
    for (int s = 0; s < strips; ++s)
      for (int v = 0; v < vectors; ++v) {
        auto stored = V::load(at[s] + v * V::lanes);
        for (int r = 0; r < rows; ++r) sums[r][s][v] = fma(factor[r], stored, sums[r][s][v]);
      }
  } else {
    typename V::Vector stored[strips][vectors];
    for (int s = 0; s < strips; ++s)
      for (int v = 0; v < vectors; ++v) stored[s][v] = V::load(at[s] + v * V::lanes);
    for (int r = 0; r < rows; ++r) {
      auto factor = V::broadcast(factors[r * stride]);
      for (int s = 0; s < strips; ++s)
        for (int v = 0; v < vectors; ++v) sums[r][s][v] = fma(factor, stored[s][v], sums[r][s][v]);
    }
  }
}

// scores[r][key] = sum over d, in order, of queries[r][d] * keys[d][key], for the keys of some neighbouring strips.
template <class V, int rows, int strips, bool fetches, class Stored>
void score_strips(const float* queries, int head_dim, const Stored* keys, const Stored* ahead, float* scores) {
  constexpr int vectors = strip_width / V::lanes;
  typename V::Vector sums[rows][strips][vectors];
  for (auto& row : sums)
    for (auto& strip : row)
      for (auto& sum : strip) sum = V::broadcast(0.0f);
  for (int d = 0; d < head_dim; ++d) {
    const Stored* at[strips];
    for (int s = 0; s < strips; ++s) {
      int place = (s * head_dim + d) * strip_width;
      if (fetches) prefetch<strip_width * sizeof(Stored)>(ahead + place);
      at[s] = keys + place;
    }
    multiply_add<V>(queries + d, head_dim, at, sums);
  }
  for (int r = 0; r < rows; ++r)
    for (int s = 0; s < strips; ++s)
      for (int v = 0; v < vectors; ++v)
        V::store(scores + r * partition_keys + s * strip_width + v * V::lanes, sums[r][s][v]);
}

// Scores a tile. With `fetches`, brings `ahead`, the next tile that will be needed, near meanwhile: the tiles of a
// sequence lie where no hardware guesses them.
template <int rows, bool fetches, class Stored>
void score_tile(const float* queries, int head_dim, const Stored* keys, const Stored* ahead, float* scores) {
  constexpr int strips = rows <= rows_with_two_strips ? 2 : 1;
  for (int key = 0; key < tile_keys; key += strips * strip_width)
    score_strips<Widest, rows, strips, fetches>(queries, head_dim, keys + key * head_dim, ahead + key * head_dim, scores + key);
}

// out[r][d] += sum over keys [first, end), in order, of weights[r][key] * values[key][d], for the dimensions d of some
// neighbouring strips of `vectors` vectors each.
template <class V, int rows, int strips, int vectors, bool fetches, class Stored>
void add_value_strips(const float* weights, const Stored* values, const Stored* ahead, int head_dim, int first, int end,
                      float* out) {
  constexpr int width = vectors * V::lanes;
  typename V::Vector sums[rows][strips][vectors];
  for (int r = 0; r < rows; ++r)
    for (int s = 0; s < strips; ++s)
      for (int v = 0; v < vectors; ++v) sums[r][s][v] = V::load(out + r * head_dim + s * width + v * V::lanes);
  for (int key = first; key < end; ++key) {
    const Stored* at[strips];
    for (int s = 0; s < strips; ++s) {
      int place = (s * tile_keys + key) * width;
      if (fetches) prefetch<width * sizeof(Stored)>(ahead + place);
      at[s] = values + place;
    }
    multiply_add<V>(weights + key, partition_keys, at, sums);
  }
  for (int r = 0; r < rows; ++r)
    for (int s = 0; s < strips; ++s)
      for (int v = 0; v < vectors; ++v) V::store(out + r * head_dim + s * width + v * V::lanes, sums[r][s][v]);
}

// Adds a tile's values, weighted; fetches like score_tile.
template <int rows, bool fetches, class Stored>
void add_value_tile(const float* weights, const Stored* values, const Stored* ahead, int head_dim, int first, int end,
                    float* out) {
  constexpr int strips = rows <= rows_with_two_strips ? 2 : 1;
  int d = 0;
  auto add_strips = [&]<class V, int count, int vectors>() {
    add_value_strips<V, rows, count, vectors, fetches>(weights, values + d * tile_keys, ahead + d * tile_keys, head_dim,
                                                       first, end, out + d);
    d += count * vectors * V::lanes;
  };
  constexpr int vectors = strip_width / Widest::lanes;
  while (d + strips * strip_width <= head_dim) add_strips.template operator()<Widest, strips, vectors>();
  if (d + strip_width <= head_dim) add_strips.template operator()<Widest, 1, vectors>();
  if (d < head_dim) add_strips.template operator()<Eight, 1, 1>();
}

// Scores [first, end) come as 2 log2(e) score / cap and become log2(e) cap tanh(score / cap).
void cap_scores(float* scores, int first, int end, float cap) {
  // Beyond this bound, adding 1 to 2^x no longer changes it, so tanh is 1 in float32.
  const Vec bound = broadcast(60.0f), zero = broadcast(0.0f), one = broadcast(1.0f), most = broadcast(cap * log2_e);
  for (int key = first; key < end; key += lanes) {
    Vec x = maximum(sub(zero, bound), load(scores + key));
    x = sub(zero, maximum(sub(zero, bound), sub(zero, x)));  // the smaller of x and the bound
    Vec whole = round_to_even(x);
    Vec power = times_power_of_two(exp2_of_fraction<Eight>(sub(x, whole)), whole);
    store(scores + key, mul(divide(sub(power, one), add(power, one)), most));
  }
}

// Turns scores [first, end) into softmax weights, those outside [visible_first, visible_end) into 0. `first` and `end`
// are multiples of `lanes`; lane l of the running sum takes the keys at l modulo `lanes`, in order, so that invisible
// keys on either side change nothing.
void weigh(float* scores, int first, int end, int visible_first, int visible_end, float* max, float* sum) {
  const float hidden = -__builtin_inff();
  for (int key = first; key < visible_first; ++key) scores[key] = hidden;
  for (int key = visible_end; key < end; ++key) scores[key] = hidden;

  Vec largest = broadcast(hidden);
  for (int key = first; key < end; key += lanes) largest = maximum(largest, load(scores + key));
  float shift = reduce_max(largest);

  auto weigh_at = [&]<class V>(int key) {
    V::store(scores + key, exp2_of_negative<V>(sub(V::load(scores + key), V::broadcast(shift))));
  };
  int key = first;
  for (; key + Widest::lanes <= end; key += Widest::lanes) weigh_at.template operator()<Widest>(key);
  for (; key < end; key += lanes) weigh_at.template operator()<Eight>(key);

  Vec total = broadcast(0.0f);
  for (key = first; key < end; key += lanes) total = add(total, load(scores + key));
  *max = shift;
  *sum = reduce_add(total);
}

}  // namespace
}  // namespace kr
