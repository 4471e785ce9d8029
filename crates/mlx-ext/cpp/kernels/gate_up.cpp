#include "gate_up.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pool.h"
#include "progress.h"
#include "tile_kernels.h"

namespace kr {

namespace {

// Below this many values the calling thread is done before another has begun.
constexpr int64_t worth_sharing = 1 << 14;
// Values at a time: a whole number of vectors of every kind.
constexpr int piece = 256;

void compute_row(const GateUpJob& job, const TileKernels& kernels, int row) {
  const float* gate = job.x + static_cast<size_t>(row) * 2 * job.width;
  const float* up = gate + job.width;
  float* y = job.y + static_cast<size_t>(row) * job.width;
  alignas(64) float gates[piece] = {}, ups[piece] = {};
  for (int i = 0; i < job.width; i += piece) {
    const size_t bytes = std::min(piece, job.width - i) * sizeof(float);
    std::memcpy(gates, gate + i, bytes);
    std::memcpy(ups, up + i, bytes);
    kernels.gate(job.gate, gates, ups, piece);
    std::memcpy(y + i, gates, bytes);
  }
}

}  // namespace

void gate_up(const GateUpJob& job) {
  const TileKernels& kernels = tile_kernels();
  const int together = std::max<int>(1, worth_sharing / 4 / std::max(1, job.width));
  auto compute = [&](int task) {
    const int end = std::min(job.rows, (task + 1) * together);
    for (int row = task * together; row < end; row++) compute_row(job, kernels, row);
    count_progress();
  };
  const int tasks = (job.rows + together - 1) / together;
  if (int64_t{job.rows} * job.width < worth_sharing || tasks == 1) {
    for (int task = 0; task < tasks; task++) compute(task);
  } else {
    Pool::shared().run(tasks, compute);
  }
}

}  // namespace kr
