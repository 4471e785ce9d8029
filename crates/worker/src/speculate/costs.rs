//! What it takes to have a draft model guess, against what a step of the served model takes. Pure.

use std::time::Duration;

use super::policy::row_cost;
use crate::average::{Average, BySize};

/// Tokens of a long prompt that a step computes, before it is known how long that takes.
const FIRST_TOKENS: usize = 32;

/// The least that it computes.
const LEAST_TOKENS: usize = 8;

/// Of the tokens that are still to come, the share that a draft model may save: what it computes of a prompt has to be
/// worth it.
const MAY_SAVE: f64 = 0.4;

/// Steps without a draft that was worth it, after which one is tried as if nothing had been measured: the conditions of the
/// measurement may have changed.
const TRY_AFTER: u32 = 256;

/// What a draft model's passes and the served model's steps take.
#[derive(Clone, Debug)]
pub struct Costs {
    /// The cost of a token as long as nothing is measured.
    first: f64,
    /// It stays, whatever is measured.
    fixed: bool,
    /// Seconds of a pass of the draft model for each of its rows.
    passes: BySize<Average>,
    /// Seconds of a step of the served model for each of its rows, without guesses.
    steps: BySize<Average>,
    /// Seconds of a token of a prompt in the draft model.
    prompt_token: Average,
    /// Steps in a row in which drafts were possible and too expensive for every sequence.
    refused: u32,
}

impl Costs {
    /// Those of a draft model whose weights have `draft_bytes` bytes, and the served model's `target_bytes`: what is read
    /// says best how long it takes.
    pub fn of_weights(draft_bytes: u64, target_bytes: u64) -> Self {
        Self::new(draft_bytes as f64 / target_bytes.max(1) as f64, false)
    }

    /// A cost that nothing changes, so that what happens does not depend on the machine.
    pub fn fixed(cost: f64) -> Self {
        Self::new(cost, true)
    }

    fn new(first: f64, fixed: bool) -> Self {
        let (passes, steps) = (BySize::default(), BySize::default());
        Self { first, fixed, passes, steps, prompt_token: Average::default(), refused: 0 }
    }

    /// What a guess of the draft model costs in a step of so many rows, beside its row in that step: as a share of a token
    /// that the step would compute otherwise.
    pub fn of_token(&self, rows: usize) -> f64 {
        if self.fixed || self.refused >= TRY_AFTER {
            return self.first;
        }
        match (self.passes.nearest(rows, Average::get), self.steps.nearest(rows, Average::get)) {
            (Some(pass), Some(step)) if step > 0.0 => pass / step,
            _ => self.first,
        }
    }

    /// Records whether any sequence has asked for a draft, of a step in which one could have been.
    pub fn count_asked(&mut self, asked: bool) {
        self.refused = if asked { 0 } else { self.refused.saturating_add(1) };
    }

    /// Tokens of prompts that may be computed beside a step of so many rows, at most `most`: as many as double its time.
    pub fn prompt_tokens(&self, rows: usize, most: usize) -> usize {
        let known = self.prompt_token.get().zip(self.steps.nearest(rows, Average::get));
        let tokens = match known {
            Some((token, step)) if token > 0.0 && !self.fixed => (step * rows as f64 / token) as usize,
            _ => FIRST_TOKENS,
        };
        tokens.max(LEAST_TOKENS).min(most.max(1))
    }

    /// Whether a sequence of which the draft model misses so many tokens, and in which so many are still to come, is worth
    /// that it computes them.
    pub fn is_worth(&self, missing: usize, to_come: usize, rows: usize) -> bool {
        let token = match self.prompt_token.get().zip(self.steps.nearest(rows, Average::get)) {
            Some((token, step)) if step > 0.0 && !self.fixed => token / step,
            _ => self.first,
        };
        missing as f64 * token <= to_come as f64 * MAY_SAVE
    }

    /// Learns what a pass of the draft model took, from its tokens to the guesses.
    ///
    /// One pass makes it at most a little more expensive: the first ones read the weights, and it must not be given up for
    /// that.
    pub fn learn_pass(&mut self, rows: usize, tokens: usize, took: Duration) {
        let Some(step) = self.steps.nearest(rows, Average::get).filter(|_| rows > 0) else { return };
        let (known, new) = if tokens > 2 * rows {
            (&mut self.prompt_token, took.as_secs_f64() / tokens as f64)
        } else {
            (self.passes.get_mut(rows), seconds_of_row(rows, tokens, took))
        };
        known.learn_at_most_double(new, self.first * step);
    }

    /// Learns what a step of the served model took that had so many rows, one for each sequence, and so many tokens: one a
    /// row, and guesses.
    pub fn learn_step(&mut self, rows: usize, tokens: usize, took: Duration) {
        if rows > 0 {
            self.steps.get_mut(rows).learn(seconds_of_row(rows, tokens, took));
        }
    }
}

/// Seconds of each row, if each had one token.
fn seconds_of_row(rows: usize, tokens: usize, took: Duration) -> f64 {
    let more = tokens.saturating_sub(rows) as f64 / rows as f64;
    took.as_secs_f64() / (1.0 + row_cost(rows) * more) / rows as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn weights_say_what_it_costs_until_it_is_measured() {
        let mut costs = Costs::of_weights(1, 10);
        assert_eq!(costs.of_token(1), 0.1);
        costs.learn_pass(1, 1, millis(30));
        costs.learn_step(1, 1, millis(100));
        assert_eq!(costs.of_token(1), 0.1, "half of it is not known");
        costs.learn_pass(1, 1, millis(10_000));
        assert!((costs.of_token(1) - 0.11).abs() < 1e-9, "one pass tells little");
        for _ in 0..100 {
            costs.learn_pass(1, 1, millis(30));
        }
        assert!((costs.of_token(1) - 0.3).abs() < 1e-3);
        for _ in 0..100 {
            costs.learn_pass(1, 1, millis(5));
        }
        assert!((costs.of_token(1) - 0.05).abs() < 1e-3);
        assert!((costs.of_token(64) - 0.05).abs() < 1e-3, "the nearest that is known");
        let mut fixed = Costs::fixed(0.2);
        fixed.learn_step(1, 1, millis(1));
        fixed.learn_pass(1, 1, millis(1));
        assert_eq!(fixed.of_token(1), 0.2);
    }

    #[test]
    fn guesses_in_a_step_are_not_its_cost() {
        let (mut plain, mut guessing) = (Costs::of_weights(1, 10), Costs::of_weights(1, 10));
        plain.learn_step(2, 2, millis(100));
        guessing.learn_step(2, 6, millis(160));
        for costs in [&mut plain, &mut guessing] {
            costs.learn_pass(2, 2, millis(10));
        }
        assert!((plain.of_token(2) - guessing.of_token(2)).abs() < 1e-9);
    }

    #[test]
    fn what_was_too_expensive_is_tried_again() {
        let mut costs = Costs::of_weights(1, 10);
        costs.learn_step(1, 1, millis(1));
        for _ in 0..200 {
            costs.learn_pass(1, 1, millis(5));
        }
        for _ in 0..TRY_AFTER {
            assert!(costs.of_token(1) > 4.9);
            costs.count_asked(false);
        }
        assert_eq!(costs.of_token(1), 0.1);
        costs.count_asked(true);
        assert!(costs.of_token(1) > 4.9);
    }

    #[test]
    fn a_long_prompt_is_computed_where_much_is_to_come() {
        let mut costs = Costs::of_weights(1, 10);
        assert!(costs.is_worth(1000, 1000, 1) && !costs.is_worth(1000, 100, 1));
        costs.learn_step(1, 1, millis(20));
        for _ in 0..100 {
            costs.learn_pass(1, 100, millis(50));
        }
        assert!((39..=40).contains(&costs.prompt_tokens(1, 256)), "as many as take as long as the step");
        assert_eq!(costs.prompt_tokens(1, 16), 16);
        assert!(costs.is_worth(1000, 1000, 1) && !costs.is_worth(1000, 50, 1));
    }

    proptest! {
        /// Whatever is learnt, what follows is finite, and something is computed.
        #[test]
        fn costs_are_numbers(
            learnt in prop::collection::vec((any::<bool>(), 0..5000usize, 0..5000usize, 0..1u64 << 40), 0..30),
            rows in 0..5000usize,
            most in 0..5000usize,
        ) {
            let mut costs = Costs::of_weights(3, 0);
            for (step, rows, tokens, nanos) in learnt {
                let took = Duration::from_nanos(nanos);
                if step { costs.learn_step(rows, tokens, took) } else { costs.learn_pass(rows, tokens, took) }
            }
            let cost = costs.of_token(rows);
            prop_assert!(cost.is_finite() && cost >= 0.0);
            prop_assert!((1..=most.max(1)).contains(&costs.prompt_tokens(rows, most)));
        }
    }
}
