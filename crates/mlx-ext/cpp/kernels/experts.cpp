#include "experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

// On every processor the same exponential: weights are few.
#include "vector_portable.h"
#include "exponential.h"

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
  std::vector<float> powers;
  std::vector<char> is_chosen;
  std::vector<float> x, inner, y;
};

// Marks the experts of a row and leaves e^(routing - the largest) of each.
void choose(const ExpertsJob& job, const float* routing, Memory& memory) {
  std::fill(memory.is_chosen.begin(), memory.is_chosen.end(), 0);
  for (int c = 0; c < job.chosen; c++) {
    int best = -1;
    for (int e = 0; e < job.experts; e++) {
      if (!memory.is_chosen[e] && (best < 0 || routing[e] > routing[best])) best = e;
    }
    memory.is_chosen[best] = 1;
  }
  // A NaN makes every weight one: where it stands must not decide whether the result shows it.
  const bool has_nan = std::any_of(routing, routing + job.experts, [](float value) { return std::isnan(value); });
  const float largest = has_nan ? std::numeric_limits<float>::quiet_NaN() : *std::max_element(routing, routing + job.experts);
  for (int e = 0; e < job.experts; e++) memory.powers[e] = routing[e] - largest;
  for (size_t i = 0; i < memory.powers.size(); i += PortableVector::lanes) {
    PortableVector::store(&memory.powers[i], exponential<PortableVector>(PortableVector::load(&memory.powers[i])));
  }
}

void assign_row(const ExpertsJob& job, int row, Memory& memory) {
  choose(job, job.routing + static_cast<size_t>(row) * job.experts, memory);
  float sum = 0;
  for (int e = 0; e < job.experts; e++) {
    if (memory.is_chosen[e] || !job.normalized) sum += memory.powers[e];
  }
  for (int e = 0; e < job.experts; e++) {
    if (memory.is_chosen[e]) memory.of_expert[e].push_back({row, memory.powers[e] / sum});
  }
}

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
    std::copy_n(row, inputs, memory.x.data() + i * inputs);
  }
  const int rows = static_cast<int>(assigned.size());
  const Matrix gate_up[2] = {job.gates[expert], job.ups[expert]};
  linear(product(job, memory.x.data(), rows, gate_up, 2, memory.inner.data()));
  linear(product(job, memory.inner.data(), rows, &job.downs[expert], 1, memory.y.data()));
  for (size_t i = 0; i < assigned.size(); i++) {
    float* y = job.y + static_cast<size_t>(assigned[i].row) * outputs;
    const float* from = memory.y.data() + i * outputs;
    for (size_t o = 0; o < outputs; o++) y[o] += from[o] * assigned[i].weight;
  }
}

}  // namespace

void experts(const ExpertsJob& job) {
  static thread_local Memory memory;
  const size_t lanes = PortableVector::lanes;
  memory.of_expert.resize(job.experts);
  memory.is_chosen.resize(job.experts);
  memory.powers.assign((job.experts + lanes - 1) / lanes * lanes, 0);
  for (auto& rows : memory.of_expert) rows.clear();
  for (int row = 0; row < job.rows; row++) assign_row(job, row, memory);
  const size_t values = static_cast<size_t>(job.rows) * job.downs[0].outputs();
  if (job.residual) {
    std::memcpy(job.y, job.residual, values * sizeof(float));
  } else {
    std::fill_n(job.y, values, 0.0f);
  }
  for (int expert = 0; expert < job.experts; expert++) run_expert(job, expert, memory);
}

}  // namespace kr
