//! From one row of logits to one token.
//!
//! The order is penalties, bias, the constraint's mask, temperature, top-k, top-p, min-p, draw. The draw is a pure function of
//! (seed, position), so that a request gets the same tokens alone, in a batch, after preemption, or on
//! another worker.

mod draw;
mod filters;
mod penalties;

use draw::{argmax, pick, uniform};
use filters::{apply_top_k, apply_top_p_min_p, sort, to_probabilities};
use penalties::Penalties;
use protocol::message::Sampling;

use crate::constraint::TokenMask;

/// A token with its logit, later with its probability.
type Candidate = (f32, u32);

/// Chooses the tokens of one sequence.
///
/// What a token costs is bounded by the vocabulary, however long the prompt, the output and the list of biases are.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    penalties: Penalties,
    /// Reused between calls.
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    pub fn new(mut sampling: Sampling, prompt: &[u32]) -> Self {
        let penalties = Penalties::new(&mut sampling, prompt);
        Self { sampling, penalties, candidates: Vec::new() }
    }

    /// The token that follows, given the logits of every token of the vocabulary.
    ///
    /// `position` is the index of the new token in the whole sequence. Logits that are not numbers count
    /// as impossible; if all are, the answer is token 0.
    pub fn sample(&mut self, logits: &[f32], position: u64) -> u32 {
        self.sample_among(logits, position, None)
    }

    /// [`sample`](Self::sample) among the tokens that `mask` allows.
    pub fn sample_among(&mut self, logits: &[f32], position: u64, mask: Option<&TokenMask>) -> u32 {
        let is_greedy = self.sampling.temperature <= 0.0;
        let token = if is_greedy && mask.is_none() && self.penalties.change_nothing() {
            argmax(logits.iter().copied().zip(0..))
        } else {
            self.candidates.clear();
            self.candidates.extend(logits.iter().copied().zip(0..));
            self.penalties.apply(&mut self.candidates);
            if let Some(mask) = mask {
                self.candidates.retain(|&(_, token)| mask.allows(token));
            }
            if is_greedy {
                argmax(self.candidates.iter().copied())
            } else {
                self.draw(uniform(self.sampling.seed, position))
            }
        };
        self.accept(token);
        token
    }

    /// Counts a token of the output. [`sample`](Self::sample) does it for its own.
    pub fn accept(&mut self, token: u32) {
        self.penalties.count(token);
    }

    /// Filters the candidates and takes the one at `quantile` of their probability.
    fn draw(&mut self, quantile: f64) -> u32 {
        let Sampling { temperature, top_p, top_k, min_p, .. } = self.sampling;
        let candidates = &mut self.candidates;
        candidates.retain(|(logit, _)| !logit.is_nan());
        apply_top_k(candidates, top_k);
        let mut total = to_probabilities(candidates, temperature);
        if top_p < 1.0 || min_p > 0.0 {
            total = apply_top_p_min_p(candidates, total, top_p, min_p);
        } else if top_k > 0 {
            // The selection leaves an order that depends on all logits: make it one of its own.
            sort(candidates);
        }
        pick(candidates, quantile * total)
    }
}

#[cfg(test)]
mod tests;
