// From the results of partitions to that of all keys. Included by one translation unit per instruction set after `Vec`, see
// attention_tile.h.
#pragma once

#include "attention_tile.h"

namespace kr {
namespace {

// Adds a later partition's result to that of the ones before it. A sum of 0 says that a row saw nothing there.
void fold(const Partial& total, const Partial& next, int rows, int head_dim) {
  for (int r = 0; r < rows; ++r) {
    if (next.sum[r] == 0.0f) continue;
    float* out = total.out + r * head_dim;
    const float* added = next.out + r * head_dim;
    if (total.sum[r] == 0.0f) {
      total.max[r] = next.max[r];
      total.sum[r] = next.sum[r];
      for (int d = 0; d < head_dim; d += lanes) store(out + d, load(added + d));
      continue;
    }
    float max = total.max[r] > next.max[r] ? total.max[r] : next.max[r];
    float keep = exp2_of_negative(total.max[r] - max);
    float take = exp2_of_negative(next.max[r] - max);
    total.max[r] = max;
    total.sum[r] = total.sum[r] * keep + next.sum[r] * take;
    for (int d = 0; d < head_dim; d += lanes)
      store(out + d, fma(load(added + d), broadcast(take), mul(load(out + d), broadcast(keep))));
  }
}

// What a row's sum of weighted values is multiplied by. A sink comes last, whatever the partitions are.
float normalizer(const AttentionJob& job, const Partial& total, int r, int head) {
  if (job.sinks == nullptr) return 1.0f / total.sum[r];
  float sink = job.sinks[head] * log2_e;
  float max = total.max[r] > sink ? total.max[r] : sink;
  float keep = exp2_of_negative(total.max[r] - max);
  return keep / (total.sum[r] * keep + exp2_of_negative(sink - max));
}

}  // namespace
}  // namespace kr
