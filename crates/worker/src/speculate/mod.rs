//! Tokens that are guessed and then checked: several of them in one step, where the model would compute one.
//!
//! ```text
//! lookup   what followed the last tokens when they stood in the sequence before
//! policy   how many tokens are worth a guess
//! costs    what it takes to have a draft model guess
//! ```
//!
//! A row of guessed tokens gives the logits after each of them. The sampler goes through these in order, with the draws
//! that it would have made anyway, and stops at the first token that was guessed wrong: so the output is what it would
//! have been. Prompt lookup decoding is Saxena's idea (2023); checking drafts at once is Leviathan, Kalman and Matias,
//! "Fast Inference from Transformers via Speculative Decoding" (2023), with exact equality in place of rejection sampling.

mod costs;
mod lookup;
mod policy;

pub use costs::Costs;
use lookup::Lookup;
use policy::{Policy, Source, row_cost};

/// What is guessed of one sequence.
#[derive(Debug)]
pub struct Speculation {
    lookup: Lookup,
    of_lookup: Policy,
    of_model: Policy,
    draft: Vec<u32>,
    /// Where `draft` comes from.
    source: Source,
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

impl Default for Speculation {
    fn default() -> Self {
        Self {
            lookup: Lookup::default(),
            of_lookup: Policy::new(Source::Lookup),
            of_model: Policy::new(Source::Model),
            draft: Vec::new(),
            source: Source::default(),
            counts: Counts::default(),
        }
    }
}

impl Speculation {
    /// Guesses what follows `tokens`, at most so many, in a step of so many `rows`. Returns how many tokens a draft model is
    /// asked for instead ([`begin_model`](Self::begin_model)), at this cost of each ([`Costs::of_token`]); `None`: there is no draft model.
    pub fn guess(&mut self, tokens: &[u32], rows: usize, most: usize, model: Option<f64>) -> usize {
        self.draft.clear();
        self.source = Source::Lookup;
        let row = row_cost(rows);
        let found = self.of_lookup.most(row, most);
        if found > 0 {
            self.draft.extend_from_slice(self.lookup.draft(tokens, found));
        }
        let Some(cost) = model.map(|model| row + model) else { return 0 };
        let found = self.draft.len();
        if found > 0 && self.of_lookup.gain(row, found) >= self.of_model.gain(cost, most) {
            return 0;
        }
        self.of_model.most(cost, most)
    }

    /// What the draft model guesses comes in place of what was found.
    pub fn begin_model(&mut self) {
        self.draft.clear();
        self.source = Source::Model;
    }

    /// Appends a token that the draft model has guessed.
    pub fn push(&mut self, token: u32) {
        self.draft.push(token);
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
        let policy = match self.source {
            Source::Lookup => &mut self.of_lookup,
            Source::Model => &mut self.of_model,
        };
        policy.learn(self.draft.len(), right);
        self.counts.drafted += self.draft.len() as u32;
        self.counts.accepted += right as u32;
        self.draft.clear();
    }

    /// All guesses so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPEATED: [u32; 8] = [1, 2, 3, 4, 5, 1, 2, 3];

    #[test]
    fn a_draft_model_is_asked_where_nothing_is_found() {
        let mut speculation = Speculation::default();
        assert_eq!(speculation.guess(&[1, 2, 3, 4], 1, 8, None), 0);
        assert!(speculation.draft().is_empty());
        assert!(speculation.guess(&[1, 2, 3, 4], 1, 8, Some(0.05)) > 1);
        assert_eq!(speculation.guess(&[1, 2, 3, 4], 1, 0, Some(0.05)), 0);
        assert_eq!(speculation.guess(&[1, 2, 3, 4], 1, 8, Some(2.0)), 0, "it costs more than it can save");
    }

    #[test]
    fn what_is_found_costs_less_unless_it_was_wrong() {
        let mut speculation = Speculation::default();
        assert_eq!(speculation.guess(&REPEATED, 1, 8, Some(0.6)), 0);
        assert!(!speculation.draft().is_empty());
        speculation.learn(0);
        assert!(speculation.guess(&REPEATED, 1, 8, Some(0.1)) > 0);
        speculation.begin_model();
        assert!(speculation.draft().is_empty());
        speculation.push(9);
        speculation.learn(1);
        assert_eq!(speculation.counts().accepted, 1);
    }
}
