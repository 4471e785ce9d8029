//! How much of a prompt a step computes beside decodes: as much as does not keep these waiting for long.
//!
//! A chunk of a fixed length takes many times longer behind a long context than at the beginning, on one machine,
//! and machines differ as much. So the length follows from what earlier steps took. Only a backend whose arithmetic does
//! not depend on where prompts are cut gives the same tokens whatever that was.

use std::time::Duration;

use super::PlannedRow;
use crate::average::{Average, BySize};

/// A step with parts of prompts takes at most so many times what its decodes take alone...
const STRETCH: f64 = 3.0;

/// ...or so many seconds, if that is more: a reader does not notice it.
const UNNOTICED: f64 = 0.015;

/// Tokens of prompts that every step may compute.
const LEAST_TOKENS: usize = 3;

/// Tokens of prompts that the first step beside decodes computes, when nothing is known yet.
const FIRST_TOKENS: usize = 16;

/// What the latest step counts for the time of prompts, against all before it.
const WEIGHT: f64 = 0.1;

/// After so many steps with parts of prompts, one only decodes, so that it is known what that takes: contexts grow, and
/// prompts may come without a break.
const LOOK_AFTER: u32 = 32;

/// The same where it was never seen.
const FIRST_LOOK_AFTER: u32 = 4;

/// What steps took, and what follows for the next one.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// By a step's decodes.
    decodes: BySize<DecodeTime>,
    prompts: PromptCost,
    /// Tokens of prompts in the latest step beside decodes.
    latest: usize,
}

/// What is known of steps that only decode.
#[derive(Clone, Copy, Debug, Default)]
struct DecodeTime {
    seconds: Average,
    /// Steps of as many decodes since the last one, each with parts of prompts.
    unseen: u32,
}

/// What a step computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepLoad {
    /// Tokens after which the next one is chosen: one of each sequence that decodes, and its draft's.
    pub decodes: usize,
    /// Other tokens: those of prompts.
    pub prompt_tokens: usize,
    /// Over these, the tokens before each.
    pub contexts: f64,
}

/// The time of a prompt's token, as a line over the tokens before it. Least squares, in which earlier steps fade.
#[derive(Clone, Copy, Debug, Default)]
struct PromptCost {
    tokens: f64,
    contexts: f64,
    squares: f64,
    seconds: f64,
    products: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { decodes: BySize::default(), prompts: PromptCost::default(), latest: FIRST_TOKENS / 2 }
    }
}

impl StepLoad {
    /// That of `rows`.
    pub fn of(rows: &[PlannedRow]) -> Self {
        rows.iter().fold(Self::default(), |load, row| {
            let tokens = row.tokens.len() - row.logits.len();
            let contexts = tokens as f64 * (row.tokens.start as f64 + tokens as f64 / 2.0);
            Self {
                decodes: load.decodes + row.logits.len(),
                prompt_tokens: load.prompt_tokens + tokens,
                contexts: load.contexts + contexts,
            }
        })
    }
}

impl Pace {
    /// Learns what a step took.
    pub(super) fn learn(&mut self, load: StepLoad, took: Duration) {
        let took = took.as_secs_f64();
        match load {
            StepLoad { decodes: 0, .. } => {}
            StepLoad { decodes, prompt_tokens: 0, .. } => {
                let DecodeTime { seconds, unseen } = self.decodes.get_mut(decodes);
                seconds.learn(took);
                *unseen = 0;
            }
            StepLoad { decodes, prompt_tokens, .. } => {
                self.latest = prompt_tokens;
                self.decodes.get_mut(decodes).unseen += 1;
                let prompts = (took - self.decode_seconds(decodes).unwrap_or(0.0)).max(0.0);
                self.prompts.learn(load, prompts);
            }
        }
    }

    /// Whether the next step with so many decodes is to have nothing else.
    pub(super) fn must_look(&self, decodes: usize) -> bool {
        let DecodeTime { seconds, unseen } = self.decodes.get(decodes);
        *unseen >= if seconds.get().is_some() { LOOK_AFTER } else { FIRST_LOOK_AFTER }
    }

    /// Seconds that a step with so many `decodes` has for prompts, of which there are `prompts_each` for each sequence that
    /// decodes. `None` if it has as many as it likes: nobody waits. Where more sequences wait for their first token than for
    /// their next one, they get as much more.
    pub(super) fn seconds_for_prompts(&self, decodes: usize, prompts_each: f64) -> Option<f64> {
        let alone = (decodes > 0).then(|| self.decode_seconds(decodes).unwrap_or(0.0))?;
        Some(((alone * STRETCH).max(UNNOTICED) - alone) * prompts_each.max(1.0))
    }

    /// Tokens behind `context` others that can be computed in `seconds`.
    pub(super) fn tokens(&self, seconds: f64, context: usize) -> usize {
        let each = self.prompts.seconds(context);
        // What is known of another context, or another load, may be far from the truth.
        let most = (self.latest * 2).max(LEAST_TOKENS);
        if each > 0.0 { ((seconds / each) as usize).clamp(LEAST_TOKENS, most) } else { most }
    }

    /// Seconds that `tokens` of a prompt take behind `context` others.
    pub(super) fn seconds(&self, tokens: usize, context: usize) -> f64 {
        tokens as f64 * self.prompts.seconds(context)
    }

    /// What is known of the nearest number of decodes.
    fn decode_seconds(&self, decodes: usize) -> Option<f64> {
        self.decodes.nearest(decodes, |time| time.seconds.get())
    }
}

impl PromptCost {
    fn learn(&mut self, load: StepLoad, seconds: f64) {
        let (tokens, contexts) = (load.prompt_tokens as f64, load.contexts);
        let fade = |sum: &mut f64, new: f64| *sum = *sum * (1.0 - WEIGHT) + new;
        fade(&mut self.tokens, tokens);
        fade(&mut self.contexts, contexts);
        fade(&mut self.squares, contexts * contexts / tokens);
        fade(&mut self.seconds, seconds);
        fade(&mut self.products, seconds * contexts / tokens);
    }

    /// Seconds of a token behind `context` others; 0 if nothing is known.
    fn seconds(&self, context: usize) -> f64 {
        if self.tokens <= 0.0 {
            return 0.0;
        }
        let mean = (self.contexts / self.tokens, self.seconds / self.tokens);
        let spread = self.squares / self.tokens - mean.0 * mean.0;
        // Contexts that hardly differ tell nothing of the slope.
        let slope = if spread > 1.0 {
            ((self.products / self.tokens - mean.0 * mean.1) / spread).max(0.0)
        } else {
            0.0
        };
        // A tenth at least: the line may be steeper than the truth.
        (mean.1 + slope * (context as f64 - mean.0)).max(mean.1 / 10.0)
    }
}

#[cfg(test)]
mod tests;
