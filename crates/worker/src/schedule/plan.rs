//! What one step computes.

use std::ops::Range;

/// Names a sequence to the scheduler, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId {
    /// When the request reached the gateway, even if another worker had it first.
    pub(super) arrived: u64,
    /// Of those that arrived at the same time, the first one here has the lowest.
    pub(super) number: u64,
}

/// One sequence's part of a step. Both ranges count from the beginning of the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// Whose row it is.
    pub id: SequenceId,
    /// The tokens to compute; not empty. They end behind the sequence where some are guessed.
    pub tokens: Range<usize>,
    /// The tokens after which logits are needed: the last ones of `tokens`, or none. None as long as the sequence has
    /// tokens that are not computed, because the next token can't be chosen yet.
    pub logits: Range<usize>,
}

/// What one engine step runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// The rows, decodes first.
    pub rows: Vec<PlannedRow>,
}

impl PlannedRow {
    /// Whether the next token is chosen after this row.
    pub fn samples(&self) -> bool {
        !self.logits.is_empty()
    }
}
