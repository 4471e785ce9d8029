#include "recurrent.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aligned_buffer.h"
#include "by_isa.h"
#include "pool.h"
#include "progress.h"
#include "recurrent_kernels.h"
#include "row_tasks.h"

namespace kr {

namespace {

template <class Task>
void run_tasks(int count, int64_t values, Task&& task) {
  if (count > 1 && values >= worth_sharing) return Pool::shared().run(count, task);
  for (int i = 0; i < count; i++) task(i);
}

int parts(int whole, int part) { return (whole + part - 1) / part; }

int64_t tokens_of(const StateRow* rows, int count) {
  int64_t tokens = 0;
  for (int i = 0; i < count; i++) tokens += rows[i].new_tokens;
  return tokens;
}

}  // namespace

const RecurrentKernels& recurrent_kernels() {
#if defined(__x86_64__)
  const RecurrentKernels& wide = avx512_recurrent_kernels;
  return ByIsa<RecurrentKernels>{portable_recurrent_kernels, avx2_recurrent_kernels, wide, wide}.here();
#elif defined(__aarch64__)
  return ByIsa<RecurrentKernels>{portable_recurrent_kernels, neon_recurrent_kernels}.here();
#else
  return portable_recurrent_kernels;
#endif
}

void convolution(const ConvolutionJob& job) {
  const RecurrentKernels& kernels = recurrent_kernels();
  const int blocks = parts(job.channels, convolution_lanes);
  const int64_t values = tokens_of(job.rows, job.row_count) * job.channels * job.taps;
  run_tasks(job.row_count * blocks, values, [&](int task) {
    kernels.convolve(job, job.rows[task / blocks], task % blocks * convolution_lanes);
    count_progress();
  });
}

void gated_delta(const GatedDeltaJob& job) {
  const RecurrentKernels& kernels = recurrent_kernels();
  const size_t heads = job.value_heads, all = heads * job.tokens;
  static thread_local std::vector<float> betas, decays;
  betas.resize(all);
  decays.resize(all);
  for (int token = 0; token < job.tokens; token++) {
    const float* gates = job.gates + token * 2 * heads;
    kernels.activate(Activation::sigmoid, gates, job.value_heads, betas.data() + token * heads);
    kernels.decay(gates + heads, job.log_rates, job.biases, job.value_heads, decays.data() + token * heads);
  }
  const DeltaGates gates{betas.data(), decays.data()};
  const int blocks = parts(job.value_dim, delta_lanes);
  // A prompt's part: whole heads, for their inputs. One token: blocks, for many threads.
  const auto is_long = [](const StateRow& row) { return row.new_tokens > delta_tokens; };
  const int together = std::any_of(job.rows, job.rows + job.row_count, is_long) ? blocks : 1;
  const int tasks = parts(blocks, together), a_row = job.value_heads * tasks;
  const int64_t values = static_cast<int64_t>(all) * job.key_dim * job.value_dim;
  run_tasks(job.row_count * a_row, values, [&](int task) {
    static thread_local AlignedBuffer scratch;
    void* memory = scratch.reserve(delta_scratch_floats(job) * sizeof(float));
    const DeltaTask part{task % a_row / tasks, task % tasks * together, together};
    kernels.gated_delta(job, gates, job.rows[task / a_row], part, static_cast<float*>(memory));
    count_progress();
  });
}

void gated(const GatedJob& job) {
  const RecurrentKernels& kernels = recurrent_kernels();
  const auto compute_row = [&](int row) {
    const size_t at = static_cast<size_t>(row) * job.width;
    float* y = job.y + at;
    const float* x = job.x + at;
    if (job.gate_width == 1) {
      float gate;
      kernels.activate(job.activation, job.gate + row, 1, &gate);
      for (int i = 0; i < job.width; i++) y[i] = gate * x[i];
    } else {
      kernels.activate(job.activation, job.gate + at, job.width, y);
      for (int i = 0; i < job.width; i++) y[i] *= x[i];
    }
    if (job.residual) {
      for (int i = 0; i < job.width; i++) y[i] += job.residual[at + i];
    }
  };
  for_each_row(job.rows, job.width, compute_row);
}

}  // namespace kr
