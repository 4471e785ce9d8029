//! The largest logits, block by block.

use super::lanes;

/// Tokens of a block.
const BLOCK: usize = 64;

/// The largest logit of each block of tokens: all that is needed of most blocks.
#[derive(Debug, Default)]
pub(super) struct Maxima {
    /// Negative infinity for a block without a number.
    of_blocks: Vec<f32>,
    /// The same in another order.
    ranked: Vec<f32>,
}

impl Maxima {
    pub(super) fn find(&mut self, logits: &[f32]) {
        self.of_blocks.clear();
        self.of_blocks.extend(logits.chunks(BLOCK).map(lanes::max));
    }

    /// The largest of all; negative infinity if none is a number.
    pub(super) fn largest(&self) -> f32 {
        lanes::max(&self.of_blocks)
    }

    /// The token with the largest of `logits`, of which these are the maxima; the lowest token among equals, and 0 if
    /// all are impossible.
    pub(super) fn argmax(&self, logits: &[f32]) -> u32 {
        let largest = self.largest();
        if largest == f32::NEG_INFINITY {
            return 0;
        }
        let block = self.of_blocks.iter().position(|&max| max == largest).unwrap_or(0);
        let start = block * BLOCK;
        let within = logits[start..].iter().position(|&logit| logit == largest).unwrap_or(0);
        (start + within) as u32
    }

    /// A value that at least `count` logits reach. If there may be fewer, one that every number reaches.
    pub(super) fn reached_by(&mut self, count: usize) -> f32 {
        if count == 0 || count > self.of_blocks.len() {
            return f32::NEG_INFINITY;
        }
        // As many blocks have a logit that is at least this.
        self.ranked.clone_from(&self.of_blocks);
        *self.ranked.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
    }
}
