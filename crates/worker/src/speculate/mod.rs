//! Tokens that are guessed and then checked: several of them in one step, where the model would compute one.
//!
//! ```text
//! lookup   what followed the last tokens when they stood in the sequence before
//! policy   how many tokens are worth a guess
//! ```
//!
//! A row of guessed tokens gives the logits after each of them. The sampler goes through these in order, with the draws
//! that it would have made anyway, and stops at the first token that was guessed wrong: so the output is what it would
//! have been. Prompt lookup decoding is Saxena's idea (2023); checking drafts at once is Leviathan, Kalman and Matias,
//! "Fast Inference from Transformers via Speculative Decoding" (2023), with exact equality in place of rejection sampling.

mod lookup;
mod policy;

use lookup::Lookup;
use policy::Policy;

/// What is guessed of one sequence.
#[derive(Debug, Default)]
pub struct Speculation {
    lookup: Lookup,
    policy: Policy,
    draft: Vec<u32>,
    /// Tokens that were guessed so far, and how many of them were right.
    counts: Counts,
}

/// Tokens that were guessed, and how many of them were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Right or wrong.
    pub drafted: u32,
    /// Right.
    pub accepted: u32,
}

impl Speculation {
    /// Guesses what follows `tokens`, at most so many, in a step of so many `rows`. Returns how many it has guessed.
    pub fn guess(&mut self, tokens: &[u32], rows: usize, most: usize) -> usize {
        self.draft.clear();
        let most = self.policy.most(rows, most);
        if most > 0 {
            self.draft.extend_from_slice(self.lookup.draft(tokens, most));
        }
        self.draft.len()
    }

    /// Forgets what was guessed behind the first `len` tokens.
    pub fn shorten(&mut self, len: usize) {
        self.draft.truncate(len);
    }

    /// What was guessed last.
    pub fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// Learns how many of them were right.
    pub fn learn(&mut self, right: usize) {
        self.policy.learn(self.draft.len(), right);
        self.counts.drafted += self.draft.len() as u32;
        self.counts.accepted += right as u32;
        self.draft.clear();
    }

    /// All guesses so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
