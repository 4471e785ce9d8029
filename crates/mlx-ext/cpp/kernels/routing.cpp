#include "routing.h"

#include <algorithm>
#include <cmath>
#include <limits>

// On every processor the same exponential: scores are few.
#include "vector_portable.h"
#include "exponential.h"

namespace kr {

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float none = -std::numeric_limits<float>::infinity();

// Marks the `wanted` largest of `values`, of equal ones the first.
void mark(const float* values, int count, int wanted, std::vector<char>& marks) {
  std::fill(marks.begin(), marks.end(), 0);
  for (int w = 0; w < wanted; w++) {
    int best = -1;
    for (int i = 0; i < count; i++) {
      if (!marks[i] && (best < 0 || values[i] > values[best])) best = i;
    }
    marks[best] = 1;
  }
}

void exponentials(std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); i += PortableVector::lanes) {
    PortableVector::store(&values[i], exponential<PortableVector>(PortableVector::load(&values[i])));
  }
}

}  // namespace

Router::Router(const Routing& routing)
    : routing_(routing),
      scores_((routing.experts + PortableVector::lanes - 1) / PortableVector::lanes * PortableVector::lanes),
      compared_(routing.experts),
      groups_(routing.groups),
      is_chosen_(routing.experts),
      is_kept_(routing.groups) {}

const std::vector<Choice>& Router::choose(const float* outputs) {
  score(outputs);
  if (routing_.groups > 1) leave_out_groups();
  mark(compared_.data(), routing_.experts, routing_.chosen, is_chosen_);
  float sum = 0;
  for (int e = 0; e < routing_.experts; e++) {
    // Softmax divides by the sum of all, unless that of those chosen is to be 1.
    const bool counts = is_chosen_[e] || (routing_.scores == Scores::softmax && !routing_.normalized);
    if (counts) sum += scores_[e];
  }
  if (routing_.scores == Scores::sigmoid) sum = routing_.normalized ? sum + routing_.least_sum : 1.0f;
  choices_.clear();
  for (int e = 0; e < routing_.experts; e++) {
    if (!is_chosen_[e]) continue;
    const float weight = scores_[e] / sum * routing_.factor;
    choices_.push_back({e, routing_.factors ? weight * routing_.factors[e] : weight});
  }
  return choices_;
}

// Leaves scores, those of softmax not divided by their sum unless they have to be, and what of them is compared.
void Router::score(const float* outputs) {
  const bool softmax = routing_.scores == Scores::softmax;
  const float largest = *std::max_element(outputs, outputs + routing_.experts);
  for (int e = 0; e < routing_.experts; e++) scores_[e] = softmax ? outputs[e] - largest : -outputs[e];
  exponentials(scores_);
  if (softmax && routing_.correction) {
    // What is added belongs to shares.
    float sum = 0;
    for (int e = 0; e < routing_.experts; e++) sum += scores_[e];
    for (int e = 0; e < routing_.experts; e++) scores_[e] /= sum;
  }
  for (int e = 0; e < routing_.experts; e++) {
    if (!softmax) scores_[e] = 1.0f / (1.0f + scores_[e]);
    // Where nothing is added, what the router gives is compared: exponentials of different numbers may be equal.
    const bool is_plain = !routing_.correction && routing_.groups == 1;
    compared_[e] = is_plain ? outputs[e] : scores_[e] + (routing_.correction ? routing_.correction[e] : 0.0f);
  }
  // A NaN makes every weight one: where it stands must not decide whether the result shows it.
  const bool has_nan = std::any_of(outputs, outputs + routing_.experts, [](float output) { return std::isnan(output); });
  if (has_nan) std::fill(scores_.begin(), scores_.end(), not_a_number);
}

void Router::leave_out_groups() {
  const int size = routing_.experts / routing_.groups;
  for (int g = 0; g < routing_.groups; g++) {
    float first = none, second = none;
    for (int e = g * size; e < (g + 1) * size; e++) {
      if (compared_[e] > first) {
        second = first;
        first = compared_[e];
      } else if (compared_[e] > second) {
        second = compared_[e];
      }
    }
    groups_[g] = routing_.best_of_group == 2 ? first + second : first;
  }
  mark(groups_.data(), routing_.groups, routing_.chosen_groups, is_kept_);
  for (int e = 0; e < routing_.experts; e++) {
    if (!is_kept_[e / size]) compared_[e] = none;
  }
}

}  // namespace kr
