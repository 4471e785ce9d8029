#include "gate_up.h"

#include <algorithm>
#include <cstring>

#include "row_tasks.h"
#include "tile_kernels.h"

namespace kr {

namespace {

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
  for_each_row(job.rows, job.width, [&](int row) { compute_row(job, kernels, row); });
}

}  // namespace kr
