//! The tokens that can be drawn, where filters leave only some of the vocabulary.

use protocol::message::Sampling;

use super::{
    candidate::Candidate,
    draw::pick,
    lanes,
    maxima::Maxima,
    weights::{Scale, Weights},
};

/// Values that are looked through together: most of the time none of them is wanted.
const CHUNK: usize = 64;

/// The first attempt to find the most likely tokens takes those with at least this part of what top-p leaves out. It is
/// enough if the head is of a few hundred tokens or less, as that of most texts is.
const FIRST_SHARE: f64 = 1.0 / 512.0;
/// Each further attempt lowers it by this much.
const LATER_SHARES: f32 = 1.0 / 16.0;

/// Sums of the same weights in another order differ by much less.
const ROUNDING: f64 = 1e-9;

/// Tokens that can be drawn, with their weights, the most likely first.
#[derive(Debug, Default)]
pub(super) struct Candidates(Vec<Candidate>);

impl Candidates {
    /// Takes the `top_k` tokens with the largest logits. Returns the sum of their weights.
    pub(super) fn take_top_k(
        &mut self,
        logits: &[f32],
        maxima: &mut Maxima,
        scale: Scale,
        top_k: usize,
    ) -> f64 {
        self.take_largest_unsorted(logits, maxima, top_k);
        for candidate in &mut self.0 {
            *candidate = Candidate::new(scale.weight(candidate.value()), candidate.token());
        }
        self.0.sort_unstable();
        self.sum()
    }

    /// Takes the `count` tokens with the largest logits; with 0 none.
    pub(super) fn take_largest(&mut self, logits: &[f32], maxima: &mut Maxima, count: usize) {
        if count == 0 {
            return self.0.clear();
        }
        self.take_largest_unsorted(logits, maxima, count);
        self.0.sort_unstable();
    }

    fn take_largest_unsorted(&mut self, logits: &[f32], maxima: &mut Maxima, count: usize) {
        self.collect(logits, maxima.reached_by(count));
        if 0 < count && count < self.0.len() {
            self.0.select_nth_unstable(count - 1);
            self.0.truncate(count);
        }
    }

    /// Takes the tokens that top-p and min-p keep. Returns the sum of their weights.
    pub(super) fn take_likely(&mut self, weights: &Weights, sampling: &Sampling) -> f64 {
        let total = weights.total();
        let left_out = (1.0 - f64::from(sampling.top_p)).max(0.0) * total;
        // All tokens below this together have less than half of what may be left out, so none of them is needed. Nor is
        // one below min-p, since the most likely token has a weight of 1.
        let negligible = left_out / 2.0 / weights.of_tokens().len().max(1) as f64;
        let floor = (negligible as f32).max(sampling.min_p).min(1.0);
        // Few tokens are needed, and sorting all above the floor would cost the most.
        let mut least = floor.max((left_out * FIRST_SHARE) as f32);
        loop {
            self.collect(weights.of_tokens(), least);
            if least <= floor || self.sum() > (total - left_out) * (1.0 + ROUNDING) {
                break;
            }
            least = floor.max(least * LATER_SHARES);
        }
        self.0.sort_unstable();
        self.keep_likely(total, sampling)
    }

    /// Keeps the smallest head that reaches top-p of `total`, and of it the tokens that min-p allows. Returns the sum of
    /// what is kept.
    pub(super) fn keep_likely(&mut self, total: f64, sampling: &Sampling) -> f64 {
        let enough = if sampling.top_p < 1.0 { f64::from(sampling.top_p) * total } else { f64::INFINITY };
        let mut kept = 0.0;
        let mut len = 0;
        for candidate in &self.0 {
            // The most likely one has a weight of 1, and stays in any case.
            if len > 0 && (kept >= enough || candidate.value() < sampling.min_p) {
                break;
            }
            kept += f64::from(candidate.value());
            len += 1;
        }
        self.0.truncate(len);
        kept
    }

    /// In the order in which they are.
    pub(super) fn as_slice(&self) -> &[Candidate] {
        &self.0
    }

    /// The token in which the running sum passes `target`.
    pub(super) fn pick(&self, target: f64) -> u32 {
        pick(self.0.iter().map(|candidate| (candidate.value(), candidate.token())), 0.0, target)
    }

    /// Takes all tokens with at least this value, in no order.
    fn collect(&mut self, values: &[f32], least: f32) {
        self.0.clear();
        for (chunk, values) in values.chunks(CHUNK).enumerate() {
            if lanes::reach(values, least) {
                let tokens = (chunk * CHUNK) as u32..;
                let reaching = values.iter().zip(tokens).filter(|&(&value, _)| value >= least);
                self.0.extend(reaching.map(|(&value, token)| Candidate::new(value, token)));
            }
        }
    }

    /// In the order in which they are.
    fn sum(&self) -> f64 {
        self.0.iter().map(|candidate| f64::from(candidate.value())).sum()
    }
}
