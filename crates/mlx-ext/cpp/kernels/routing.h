// Which experts a row goes through, and how much of each it gets.
#pragma once

#include <vector>

namespace kr {

// What becomes of a router's outputs.
enum class Scores {
  softmax,  // of all experts' outputs
  sigmoid,  // of each output
};

// The rule by which rows choose experts: those with the largest scores, of equal ones the first.
struct Routing {
  int experts;
  int chosen;              // by each row
  Scores scores;
  const float* correction;  // [experts], added to the scores that are compared, but not to weights; null: none
  int groups;              // neighbouring experts form as many groups; 1 where there are none
  int chosen_groups;       // experts of the best ones only can be chosen
  int best_of_group;       // a group is as good as the sum of so many of its largest scores
  bool normalized;         // the weights of those chosen add up to 1; otherwise a weight is the score
  float least_sum;         // added to the sum of sigmoids that weights are divided by then, which may be 0
  float factor;            // of the weights
  const float* factors;    // [experts]: of the weights of each, beside that; null: none
};

// A row's experts in the order of their indices, and their weights.
struct Choice {
  int expert;
  float weight;
};

// Chooses for one row after the other. A row's choice depends on that row alone.
class Router {
 public:
  explicit Router(const Routing& routing);

  // `outputs` are [experts]. The result lives until the next call.
  const std::vector<Choice>& choose(const float* outputs);

 private:
  void score(const float* outputs);
  void leave_out_groups();

  const Routing& routing_;
  std::vector<float> scores_;    // what weights are made of, filled up to whole vectors
  std::vector<float> compared_;  // [experts]
  std::vector<float> groups_;    // [groups]
  std::vector<char> is_chosen_;  // [experts]
  std::vector<char> is_kept_;    // [groups]
  std::vector<Choice> choices_;
};

}  // namespace kr
