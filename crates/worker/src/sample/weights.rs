//! How likely each token is.

use super::{draw::pick, exponential::exponential, lanes};

/// Tokens of a block.
pub(super) const BLOCK: usize = 1024;

/// What makes weights of logits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The largest logit.
    pub(super) max: f32,
    pub(super) temperature: f32,
}

/// Every token's weight: its probability, relative to that of the most likely one.
///
/// They are summed up in blocks, and these one after another. That is a rule of its own, since rounding depends on the
/// order; it lets a block be added up by several lanes, and the draw skip the blocks before its own.
#[derive(Debug, Default)]
pub(super) struct Weights {
    of_tokens: Vec<f32>,
    /// Sum of each block.
    sums: Vec<f64>,
}

impl Scale {
    /// The weight of a token with this logit; 0 if that is not a number.
    #[inline]
    pub(super) fn weight(self, logit: f32) -> f32 {
        let weight = exponential((logit - self.max) / self.temperature);
        // The difference of equal infinities is not 0.
        if logit == self.max { 1.0 } else { weight }
    }

    /// The logarithm of that weight.
    #[inline]
    pub(super) fn exponent(self, logit: f32) -> f32 {
        if logit == self.max { 0.0 } else { (logit - self.max) / self.temperature }
    }

    /// A weight times its logarithm; 0 for a weight of 0.
    #[inline]
    pub(super) fn product(self, logit: f32, weight: f32) -> f32 {
        if weight > 0.0 { self.exponent(logit) * weight } else { 0.0 }
    }
}

impl Weights {
    pub(super) fn compute(&mut self, logits: &[f32], scale: Scale) {
        self.of_tokens.resize(logits.len(), 0.0);
        self.sums.clear();
        for (weights, logits) in self.of_tokens.chunks_mut(BLOCK).zip(logits.chunks(BLOCK)) {
            for (weight, &logit) in weights.iter_mut().zip(logits) {
                *weight = scale.weight(logit);
            }
            self.sums.push(lanes::sum(weights));
        }
    }

    /// Token by token.
    pub(super) fn of_tokens(&self) -> &[f32] {
        &self.of_tokens
    }

    pub(super) fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// The token in which the running sum passes `target`.
    pub(super) fn pick(&self, target: f64) -> u32 {
        let (mut before, mut last) = (0.0, (0, 0.0));
        for (block, &sum) in self.sums.iter().enumerate() {
            if sum > 0.0 {
                last = (block, before);
            }
            if before + sum > target {
                break;
            }
            before += sum;
        }
        // Rounding can leave the target at the total: then it is the last block in which there is anything.
        let (block, before) = last;
        let weights = self.of_tokens.chunks(BLOCK).nth(block).unwrap_or_default();
        pick(weights.iter().copied().zip((block * BLOCK) as u32..), before, target)
    }
}
