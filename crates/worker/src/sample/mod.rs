//! From one row of logits to one token.
//!
//! The order is penalties, bias, the constraint's mask, tokens that may not come yet, temperature, top-k, top-p, min-p,
//! typical-p, draw. The draw is a pure function of
//! (seed, position), so that a request gets the same tokens alone, in a batch, after preemption, or on
//! another worker.
//!
//! ```text
//! penalties    what changes the logits
//! least        tokens that may not be chosen yet
//! maxima       the largest of them
//! weights      how likely each token is; exponential, lanes
//! candidates   the tokens that filters leave
//! typical      those of them that are as likely as could be expected
//! draw         which of them it is
//! choice       all that a device needs to choose a token itself
//! logprobs     how likely it was, for those who ask
//! threads      the rows of a step, several at a time
//! ```
//!
//! What is computed is one sequence of additions, multiplications and comparisons, which every machine rounds alike. So
//! the token depends neither on the CPU's instructions nor on the thread, nor on what the memory was used for before.

mod candidate;
mod candidates;
mod choice;
mod draw;
mod exponential;
mod lanes;
mod least;
mod logprobs;
mod maxima;
mod penalties;
mod threads;
mod typical;
mod weights;

use std::sync::Arc;

use candidates::Candidates;
pub use choice::Choice;
use draw::uniform;
use least::Least;
use logprobs::Rankings;
pub use logprobs::{Ranked, Ranking};
use maxima::Maxima;
use penalties::Penalties;
use protocol::message::Sampling;
pub use threads::{GuessRow, Row, SampleThreads};
use typical::Typical;
use weights::{Scale, Weights};

use crate::constraint::TokenMask;

/// Chooses the tokens of one sequence.
///
/// What a token costs is bounded by the vocabulary, however long the prompt, the output and the list of biases are.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    penalties: Penalties,
    least: Option<Least>,
    rankings: Option<Rankings>,
}

/// Memory for choosing a token, used again for the next one, whichever sequence's it is. One thread's stays in its cache.
#[derive(Debug, Default)]
pub struct Scratch {
    adjusted: Vec<f32>,
    maxima: Maxima,
    weights: Weights,
    candidates: Candidates,
    typical: Typical,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    pub fn new(mut sampling: Sampling, prompt: &[u32]) -> Self {
        let penalties = Penalties::new(&mut sampling, prompt);
        let rankings = sampling.logprobs.map(Rankings::new);
        Self { sampling, penalties, least: None, rankings }
    }

    /// The same, which chooses none of `tokens` at a position before `until`, unless a constraint allows nothing else.
    #[must_use]
    pub fn with_least(self, until: u64, tokens: Arc<[u32]>) -> Self {
        Self { least: Some(Least::new(until, tokens)), ..self }
    }

    /// The token that follows, given the logits of every token of the vocabulary.
    ///
    /// `position` is the index of the new token in the whole sequence. Logits that are not numbers count
    /// as impossible; if all are, the answer is token 0.
    pub fn sample(&mut self, logits: &[f32], position: u64, scratch: &mut Scratch) -> u32 {
        self.sample_among(logits, position, None, scratch)
    }

    /// [`sample`](Self::sample) among the tokens that `mask` allows.
    pub fn sample_among(
        &mut self,
        logits: &[f32],
        position: u64,
        mask: Option<&TokenMask>,
        scratch: &mut Scratch,
    ) -> u32 {
        let mut adjusted = std::mem::take(&mut scratch.adjusted);
        let token = self.choose(self.adjust(logits, position, mask, &mut adjusted), position, scratch);
        scratch.adjusted = adjusted;
        if let Some(rankings) = &mut self.rankings {
            rankings.add(logits, token, scratch);
        }
        self.accept(token);
        token
    }

    /// What [`sample`](Self::sample) might choose at a position that has not come yet, given logits that are not certain.
    /// The draw is the same; tokens that come before the position are not counted by penalties.
    pub fn guess(&self, logits: &[f32], position: u64, scratch: &mut Scratch) -> u32 {
        let mut adjusted = std::mem::take(&mut scratch.adjusted);
        let token = self.choose(self.adjust(logits, position, None, &mut adjusted), position, scratch);
        scratch.adjusted = adjusted;
        token
    }

    /// How likely the earliest token was that was sampled and not asked about yet; `None` if the request does not ask.
    pub fn take_ranking(&mut self) -> Option<Ranking> {
        self.rankings.as_mut()?.take()
    }

    /// Counts a token of the output. [`sample`](Self::sample) does it for its own.
    pub fn accept(&mut self, token: u32) {
        self.penalties.count(token);
    }

    /// The logits from which a token is chosen: whatever changes them does so here. Copied only if anything does.
    fn adjust<'a>(
        &self,
        logits: &'a [f32],
        position: u64,
        mask: Option<&TokenMask>,
        adjusted: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let least = self.least.as_ref().filter(|least| least.holds(position));
        if self.penalties.change_nothing() && mask.is_none() && least.is_none() {
            return logits;
        }
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        self.penalties.apply(adjusted);
        if let Some(mask) = mask {
            let refused = adjusted.iter_mut().zip(0..).filter(|(_, token)| !mask.allows(*token));
            refused.for_each(|(logit, _)| *logit = f32::NEG_INFINITY);
        }
        if let Some(least) = least {
            least.apply(adjusted);
        }
        adjusted
    }

    fn choose(&self, logits: &[f32], position: u64, scratch: &mut Scratch) -> u32 {
        scratch.maxima.find(logits);
        if self.sampling.temperature <= 0.0 {
            scratch.maxima.argmax(logits)
        } else {
            self.draw(logits, uniform(self.sampling.seed, position), scratch)
        }
    }

    /// Filters the tokens and takes the one at `quantile` of their probability.
    fn draw(&self, logits: &[f32], quantile: f64, scratch: &mut Scratch) -> u32 {
        let Scratch { maxima, weights, candidates, typical, .. } = scratch;
        let Sampling { temperature, top_p, top_k, min_p, typical_p, .. } = self.sampling;
        let scale = Scale { max: maxima.largest(), temperature };
        let only_likely = top_p < 1.0 || min_p > 0.0;
        if top_k > 0 {
            let mut sum = candidates.take_top_k(logits, maxima, scale, top_k as usize);
            if only_likely {
                sum = candidates.keep_likely(sum, &self.sampling);
            }
            return self.pick(candidates, sum, quantile, logits, scale, typical);
        }
        weights.compute(logits, scale);
        if only_likely {
            let sum = candidates.take_likely(weights, &self.sampling);
            return self.pick(candidates, sum, quantile, logits, scale, typical);
        }
        if typical_p < 1.0 {
            let sum = typical.keep_of_all(weights, typical_p, logits, scale);
            return typical.pick(quantile * sum);
        }
        weights.pick(quantile * weights.total())
    }

    /// The one of `candidates`, whose weights add up to `sum`, at `quantile` of what the last filter leaves.
    fn pick(
        &self,
        candidates: &Candidates,
        sum: f64,
        quantile: f64,
        logits: &[f32],
        scale: Scale,
        typical: &mut Typical,
    ) -> u32 {
        if self.sampling.typical_p >= 1.0 {
            return candidates.pick(quantile * sum);
        }
        let sum = typical.keep(candidates.as_slice(), sum, self.sampling.typical_p, logits, scale);
        typical.pick(quantile * sum)
    }
}

#[cfg(test)]
mod tests;
