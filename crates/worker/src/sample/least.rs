//! Tokens that may not be chosen yet, because the output has to be longer.

use std::sync::Arc;

use super::lanes;

/// Tokens that may not be chosen before a position.
#[derive(Debug)]
pub(super) struct Least {
    until: u64,
    tokens: Arc<[u32]>,
}

impl Least {
    pub(super) fn new(until: u64, tokens: Arc<[u32]>) -> Self {
        Self { until, tokens }
    }

    /// Whether it changes anything of a token at `position`.
    pub(super) fn holds(&self, position: u64) -> bool {
        position < self.until && !self.tokens.is_empty()
    }

    /// Makes its tokens impossible, unless nothing else is possible: then a constraint says that the output is complete.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        let mut logit_of =
            |token: u32| Some((token, std::mem::replace(logits.get_mut(token as usize)?, f32::NEG_INFINITY)));
        let refused: Vec<(u32, f32)> = self.tokens.iter().filter_map(|&token| logit_of(token)).collect();
        if lanes::max(logits) == f32::NEG_INFINITY {
            for (token, logit) in refused {
                logits[token as usize] = logit;
            }
        }
    }
}
