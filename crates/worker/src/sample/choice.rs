//! What a device needs to choose a token by itself, where nothing but its logits decides.

use protocol::message::Sampling;

use super::{Sampler, draw::uniform};

/// How one token is chosen of its logits. The same rules as the sampler's, and the same draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// 0: the token with the largest logit, and nothing else matters.
    pub temperature: f32,
    /// Only so many of the most likely tokens; 0: all.
    pub top_k: u32,
    /// Only the most likely tokens that reach this part of the probability; from 1 on: all.
    pub top_p: f32,
    /// Only tokens that are at least so likely, relative to the most likely one.
    pub min_p: f32,
    /// Where in the probability of the tokens that are left the chosen one is: in `[0, 1)`.
    pub quantile: f64,
}

impl Choice {
    /// One of each kind that takes operations of its own.
    pub const KINDS: [Self; 3] = [
        Self { temperature: 0.0, ..Self::DRAWN },
        Self::DRAWN,
        Self { top_k: 20, top_p: 0.9, min_p: 0.1, ..Self::DRAWN },
    ];

    const DRAWN: Self = Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, quantile: 0.5 };

    /// Whether it is the token with the largest logit.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    /// Whether it is one of the most likely tokens only: they have to be sorted.
    pub fn is_filtered(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}

impl Sampler {
    /// How the token at `position` is chosen. `None` if that takes more than its logits, or more than the token is wanted:
    /// penalties, biases, tokens that may not come yet, typical-p, the most likely tokens.
    pub fn choice(&self, position: u64) -> Option<Choice> {
        let Sampling { temperature, top_k, top_p, min_p, typical_p, seed, .. } = self.sampling;
        let by_logits = self.penalties.change_nothing()
            && self.rankings.is_none()
            && self.least.as_ref().is_none_or(|least| !least.holds(position));
        let is_drawn = temperature > 0.0;
        if !by_logits || (is_drawn && typical_p < 1.0) {
            return None;
        }
        let quantile = if is_drawn { uniform(seed, position) } else { 0.0 };
        Some(Choice { temperature, top_k, top_p, min_p, quantile })
    }
}

#[cfg(test)]
impl Choice {
    /// The token, as the sampler chooses it.
    pub(crate) fn on_host(&self, logits: &[f32]) -> u32 {
        let &Self { temperature, top_k, top_p, min_p, quantile } = self;
        let sampling = Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() };
        let (sampler, mut scratch) = (Sampler::new(sampling, &[]), super::Scratch::default());
        scratch.maxima.find(logits);
        if self.is_greedy() {
            return scratch.maxima.argmax(logits);
        }
        sampler.draw(logits, quantile, &mut scratch)
    }
}

#[cfg(test)]
mod tests;
