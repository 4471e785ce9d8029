#include "rowwise.h"

#include <algorithm>
#include <cstring>

#include "row_tasks.h"
#include "tile_kernels.h"

namespace kr {

namespace {

void normalize(const RowwiseJob& job, const TileKernels& kernels, const float* x, float* y) {
  int done = 0;
  for (int p = 0; p < job.part_count; p++) {
    const NormedPart& part = job.parts[p];
    for (int i = 0; i < part.count; i++, done += part.width) {
      if (part.kind == NormKind::rms) {
        kernels.normalize(x + done, part.weight, part.eps, part.width, y + done);
      } else {
        kernels.normalize_layer(x + done, part.weight, part.bias, part.eps, part.width, y + done);
      }
    }
  }
  std::memcpy(y + done, x + done, static_cast<size_t>(job.width - done) * sizeof(float));
}

void compute_row(const RowwiseJob& job, const TileKernels& kernels, int row) {
  const size_t at = static_cast<size_t>(row) * job.width;
  float* y = job.y + at;
  normalize(job, kernels, job.x + at, y);
  if (job.gelu) kernels.gelu(y, job.width);
  if (job.factor != 1.0f) {
    for (int i = 0; i < job.width; i++) y[i] *= job.factor;
  }
  if (job.soft_cap > 0) kernels.soft_cap(y, job.soft_cap, job.width);
  if (job.residual) {
    const float* residual = job.residual + at;
    for (int i = 0; i < job.width; i++) y[i] += residual[i];
  }
}

}  // namespace

void rowwise(const RowwiseJob& job) {
  const TileKernels& kernels = tile_kernels();
  for_each_row(job.rows, job.width, [&](int row) { compute_row(job, kernels, row); });
}

}  // namespace kr
