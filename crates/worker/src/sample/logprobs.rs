//! How likely the chosen token was, and which were the most likely: what the model says, before anything changes its
//! logits.

use std::collections::VecDeque;

use protocol::message::TokenLogprob;

use super::{Scratch, weights::Scale};

/// A token, and the logarithm of its probability.
pub type Ranked = (u32, f32);

/// How likely a chosen token was, and the most likely ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// The chosen one.
    pub chosen: Ranked,
    /// The most likely first, and the lower token first among equals.
    pub top: Vec<Ranked>,
}

/// The rankings of tokens that were chosen and not yet asked for.
#[derive(Debug)]
pub(super) struct Rankings {
    /// How many of the most likely tokens are wanted.
    count: usize,
    waiting: VecDeque<Ranking>,
}

impl Rankings {
    pub(super) fn new(count: u8) -> Self {
        Self { count: count.into(), waiting: VecDeque::new() }
    }

    /// Takes note of `chosen`, which was chosen by these logits.
    pub(super) fn add(&mut self, logits: &[f32], chosen: u32, scratch: &mut Scratch) {
        let Scratch { maxima, weights, candidates, .. } = scratch;
        maxima.find(logits);
        let scale = Scale { max: maxima.largest(), temperature: 1.0 };
        weights.compute(logits, scale);
        let log_total = weights.total().ln();
        let logprob = |logit: f32| {
            let logprob = (f64::from(scale.exponent(logit)) - log_total) as f32;
            // Also if it is not a number.
            if logprob > TokenLogprob::LEAST { logprob } else { TokenLogprob::LEAST }
        };
        candidates.take_largest(logits, maxima, self.count);
        let top = candidates.as_slice().iter().map(|it| (it.token(), logprob(it.value()))).collect();
        let of_chosen = logits.get(chosen as usize).copied().unwrap_or(f32::NAN);
        self.waiting.push_back(Ranking { chosen: (chosen, logprob(of_chosen)), top });
    }

    /// The earliest one.
    pub(super) fn take(&mut self) -> Option<Ranking> {
        self.waiting.pop_front()
    }
}
