// Rows that are computed each by itself, on all threads where that pays.
#pragma once

#include <algorithm>
#include <cstdint>

#include "pool.h"
#include "progress.h"

namespace kr {

// Below this many values the calling thread is done before another has begun.
constexpr int64_t worth_sharing = 1 << 14;

// Calls compute(first row, end) for parts that make up all rows, each of `width` values.
template <class Compute>
void for_each_part(int rows, int width, Compute&& compute) {
  const int together = std::max<int>(1, worth_sharing / 4 / std::max(1, width));
  const int tasks = (rows + together - 1) / together;
  auto run = [&](int task) {
    compute(task * together, std::min(rows, (task + 1) * together));
    count_progress();
  };
  if (int64_t{rows} * width < worth_sharing || tasks == 1) {
    for (int task = 0; task < tasks; task++) run(task);
  } else {
    Pool::shared().run(tasks, run);
  }
}

// Calls compute(row) once for every row, each of `width` values.
template <class Compute>
void for_each_row(int rows, int width, Compute&& compute) {
  for_each_part(rows, width, [&](int first, int end) {
    for (int row = first; row < end; row++) compute(row);
  });
}

}  // namespace kr
