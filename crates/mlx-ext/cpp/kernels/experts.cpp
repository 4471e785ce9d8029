#include "experts.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "row_tasks.h"

namespace kr {

namespace {

// The most rows of experts that are computed together, unless one expert alone has more: enough to keep all threads busy,
// few enough to stay in the caches.
constexpr int rows_together = 128;
// Outputs that one task adds up.
constexpr int outputs_a_task = 64;

// A row that an expert gets, and the weight of what it makes of it.
struct Assigned {
  int expert;
  int row;
  float weight;
};

// Memory that is kept from call to call.
struct Memory {
  std::vector<std::vector<Choice>> choices;  // of each row
  std::vector<int> ends;                     // of each expert's rows among those assigned
  std::vector<Assigned> assigned;            // expert after expert, each with its rows in order
  std::vector<float> x, inner, y;
  std::vector<LinearJob> jobs;
  std::vector<std::array<Matrix, 2>> gate_ups;
};

// Rows choose their experts.
void assign(const ExpertsJob& job, Memory& memory) {
  const size_t experts = job.routing.experts;
  memory.choices.resize(std::max<size_t>(memory.choices.size(), job.rows));
  // A choice costs some passes over the scores.
  for_each_part(job.rows, job.routing.experts * 16, [&](int first, int end) {
    Router router(job.routing);
    for (int row = first; row < end; row++) memory.choices[row] = router.choose(job.router + row * experts);
  });
  std::vector<int>& next = memory.ends;
  next.assign(experts + 1, 0);
  for (int row = 0; row < job.rows; row++) {
    for (const Choice& choice : memory.choices[row]) next[choice.expert + 1]++;
  }
  std::partial_sum(next.begin(), next.end(), next.begin());
  memory.assigned.resize(next.back());
  for (int row = 0; row < job.rows; row++) {
    for (const Choice& choice : memory.choices[row]) {
      memory.assigned[next[choice.expert]++] = {choice.expert, row, choice.weight};
    }
  }
}

// The rows from `begin` to `end` of those assigned, which are all of some experts'.
class ExpertRows {
 public:
  ExpertRows(const ExpertsJob& job, int begin, int end, Memory& memory)
      : job_(job), memory_(memory), assigned_(memory.assigned.data() + begin), rows_(end - begin) {}

  void run() {
    const size_t inputs = job_.gates[0].inputs(), inner = job_.gates[0].outputs(), outputs = job_.downs[0].outputs();
    memory_.x.resize(rows_ * inputs);
    memory_.inner.resize(rows_ * inner);
    memory_.y.resize(rows_ * outputs);
    gather(inputs);
    multiply(memory_.x.data(), inputs, memory_.inner.data(), inner, true);
    multiply(memory_.inner.data(), inner, memory_.y.data(), outputs, false);
    add(outputs);
  }

 private:
  void gather(size_t inputs) {
    for_each_row(rows_, static_cast<int>(inputs), [&](int i) {
      const float* row = job_.x + assigned_[i].row * inputs;
      float* to = memory_.x.data() + i * inputs;
      const float factor = job_.weighs_inputs ? assigned_[i].weight : 1.0f;
      for (size_t c = 0; c < inputs; c++) to[c] = row[c] * factor;
    });
  }

  // Each expert's rows with its gate and its up, or with its down.
  void multiply(const float* x, size_t inputs, float* y, size_t outputs, bool is_first) {
    memory_.jobs.clear();
    memory_.gate_ups.clear();
    memory_.gate_ups.reserve(job_.routing.experts);
    for (int i = 0, end = 0; i < rows_; i = end) {
      const int expert = assigned_[i].expert;
      while (end < rows_ && assigned_[end].expert == expert) end++;
      LinearJob linear{};
      linear.x = x + i * inputs;
      linear.rows = end - i;
      linear.y = y + i * outputs;
      linear.rounding = job_.rounding;
      linear.matrices = &job_.downs[expert];
      linear.matrix_count = 1;
      if (is_first) {
        memory_.gate_ups.push_back({job_.gates[expert], job_.ups[expert]});
        linear.matrices = memory_.gate_ups.back().data();
        linear.matrix_count = 2;
        linear.gate = job_.gate;
      }
      memory_.jobs.push_back(linear);
    }
    linear_each(memory_.jobs.data(), static_cast<int>(memory_.jobs.size()));
  }

  // Adds the results to those of their rows, in the order of experts.
  void add(size_t outputs) {
    const int tasks = static_cast<int>((outputs + outputs_a_task - 1) / outputs_a_task);
    for_each_part(tasks, rows_ * outputs_a_task, [&](int first_task, int end_task) {
      const size_t first = first_task * outputs_a_task, end = std::min<size_t>(outputs, end_task * outputs_a_task);
      for (int i = 0; i < rows_; i++) {
        float* y = job_.y + assigned_[i].row * outputs;
        const float* from = memory_.y.data() + i * outputs;
        const float factor = job_.weighs_inputs ? 1.0f : assigned_[i].weight;
        for (size_t o = first; o < end; o++) y[o] += from[o] * factor;
      }
    });
  }

  const ExpertsJob& job_;
  Memory& memory_;
  const Assigned* const assigned_;
  const int rows_;
};

}  // namespace

void experts(const ExpertsJob& job) {
  static thread_local Memory memory;
  assign(job, memory);
  const size_t values = static_cast<size_t>(job.rows) * job.downs[0].outputs();
  if (job.residual) {
    std::memcpy(job.y, job.residual, values * sizeof(float));
  } else {
    std::fill_n(job.y, values, 0.0f);
  }
  int begin = 0, end = 0;
  for (int expert = 0; expert < job.routing.experts; expert++) {
    if (memory.ends[expert] - begin > rows_together && end > begin) {
      ExpertRows(job, begin, end, memory).run();
      begin = end;
    }
    end = memory.ends[expert];
  }
  if (end > begin) ExpertRows(job, begin, end, memory).run();
}

}  // namespace kr
