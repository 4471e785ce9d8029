#include "experts.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace kr {

namespace {

// A row that an expert gets, and the weight of what it makes of it.
struct Assigned {
  int row;
  float weight;
};

// Memory that is kept from call to call.
struct Memory {
  std::vector<std::vector<Assigned>> of_expert;
  std::vector<float> x, inner, y;
};

LinearJob product(const ExpertsJob& job, const float* x, int rows, const Matrix* matrices, int count, float* y) {
  LinearJob linear{};
  linear.x = x;
  linear.rows = rows;
  linear.matrices = matrices;
  linear.matrix_count = count;
  linear.gate = count == 2 ? job.gate : Gate::none;
  linear.y = y;
  linear.rounding = job.rounding;
  return linear;
}

void run_expert(const ExpertsJob& job, int expert, Memory& memory) {
  const std::vector<Assigned>& assigned = memory.of_expert[expert];
  if (assigned.empty()) return;
  const size_t inputs = job.gates[expert].inputs();
  const size_t inner = job.gates[expert].outputs();
  const size_t outputs = job.downs[expert].outputs();
  memory.x.resize(assigned.size() * inputs);
  memory.inner.resize(assigned.size() * inner);
  memory.y.resize(assigned.size() * outputs);
  for (size_t i = 0; i < assigned.size(); i++) {
    const float* row = job.x + static_cast<size_t>(assigned[i].row) * inputs;
    const float factor = job.weighs_inputs ? assigned[i].weight : 1.0f;
    for (size_t c = 0; c < inputs; c++) memory.x[i * inputs + c] = row[c] * factor;
  }
  const int rows = static_cast<int>(assigned.size());
  const Matrix gate_up[2] = {job.gates[expert], job.ups[expert]};
  linear(product(job, memory.x.data(), rows, gate_up, 2, memory.inner.data()));
  linear(product(job, memory.inner.data(), rows, &job.downs[expert], 1, memory.y.data()));
  for (size_t i = 0; i < assigned.size(); i++) {
    float* y = job.y + static_cast<size_t>(assigned[i].row) * outputs;
    const float* from = memory.y.data() + i * outputs;
    const float factor = job.weighs_inputs ? 1.0f : assigned[i].weight;
    for (size_t o = 0; o < outputs; o++) y[o] += from[o] * factor;
  }
}

}  // namespace

void experts(const ExpertsJob& job) {
  static thread_local Memory memory;
  memory.of_expert.resize(job.routing.experts);
  for (auto& rows : memory.of_expert) rows.clear();
  Router router(job.routing);
  for (int row = 0; row < job.rows; row++) {
    for (const Choice& choice : router.choose(job.router + static_cast<size_t>(row) * job.routing.experts)) {
      memory.of_expert[choice.expert].push_back({row, choice.weight});
    }
  }
  const size_t values = static_cast<size_t>(job.rows) * job.downs[0].outputs();
  if (job.residual) {
    std::memcpy(job.y, job.residual, values * sizeof(float));
  } else {
    std::fill_n(job.y, values, 0.0f);
  }
  for (int expert = 0; expert < job.routing.experts; expert++) run_expert(job, expert, memory);
}

}  // namespace kr
