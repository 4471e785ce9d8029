//! The rule by which tokens choose experts.

use mlx_rs::Array;

/// What experts are compared by, and weighed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scores {
    /// Softmax of all that the router gives.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
}

/// Neighbouring experts form groups of one size, and only experts of the best groups can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(crate) count: i32,
    /// How many of them are left.
    pub(crate) chosen: i32,
    /// A group is as good as the sum of so many of its largest scores: 1 or 2.
    pub(crate) best: i32,
}

/// A token chooses the experts with the largest scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RoutingRule {
    /// How many.
    pub(crate) chosen: i32,
    pub(crate) scores: Scores,
    pub(crate) groups: Option<Groups>,
    /// Whether the weights of those chosen add up to 1; otherwise a weight is the score.
    pub(crate) normalized: bool,
    /// Added to the sum of sigmoids that weights are divided by then.
    pub(crate) least_sum: f32,
    /// Of the weights.
    pub(crate) factor: f32,
    /// Whether weights multiply what experts get; otherwise what they give.
    pub(crate) weighs_inputs: bool,
}

/// The rule of a layer, with what its router gives.
#[derive(Clone, Copy)]
pub(crate) struct Routing<'a> {
    /// `[tokens, experts]`.
    pub(crate) router: &'a Array,
    pub(crate) rule: RoutingRule,
    /// float32 `[experts]`: added to the scores that are compared, but not to weights.
    pub(crate) correction: Option<&'a Array>,
    /// float32 `[experts]`: of the weights of each, beside the rule's.
    pub(crate) factors: Option<&'a Array>,
}

/// All sigmoids may be 0.
const LEAST_SUM: f32 = 1e-20;

impl RoutingRule {
    /// Softmax of all, without groups.
    pub(crate) fn softmax(chosen: i32, normalized: bool) -> Self {
        Self {
            chosen,
            scores: Scores::Softmax,
            groups: None,
            normalized,
            least_sum: LEAST_SUM,
            factor: 1.0,
            weighs_inputs: false,
        }
    }
}

#[cfg(test)]
mod tests;
