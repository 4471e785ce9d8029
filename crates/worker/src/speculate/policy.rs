//! How many tokens are worth a guess. Pure.

/// After a guess of which nothing was right, this many steps pass before the next one; each further failure doubles it.
const FIRST_PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 64;

/// Where a row costs this share of a token, not even one guess is tried.
const TOO_MUCH: f64 = 0.9;

/// Where guesses come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Source {
    /// The sequence itself: right for a while, then wrong for a while.
    #[default]
    Lookup,
    /// A draft model: right now and then.
    Model,
}

/// What the guesses of one sequence were worth.
#[derive(Debug)]
pub(super) struct Policy {
    source: Source,
    /// How often a guessed token was right, lately.
    right: f64,
    /// Tokens without a guess from now on.
    pause: u32,
    /// The length of the next pause.
    next_pause: u32,
}

impl Source {
    /// Weight of the latest outcome.
    fn weight(self) -> f64 {
        match self {
            Self::Lookup => 0.2,
            Self::Model => 0.1,
        }
    }

    /// How often it is right before anything is known.
    fn first(self) -> f64 {
        match self {
            Self::Lookup => 0.5,
            Self::Model => 0.7,
        }
    }
}

impl Policy {
    /// Nothing is known yet.
    pub(super) fn new(source: Source) -> Self {
        Self { source, right: source.first(), pause: 0, next_pause: FIRST_PAUSE }
    }

    /// How many tokens to guess, up to `most`: as long as a token is more likely right than what it costs, in tokens that
    /// the step would compute otherwise.
    pub(super) fn most(&mut self, cost: f64, most: usize) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        let guessed = self.worthwhile(cost, most);
        if guessed > 0 {
            return guessed;
        }
        // What is never tried is never learnt.
        let tried = if cost < TOO_MUCH { most.min(1) } else { 0 };
        if tried > 0 && self.source == Source::Model {
            self.rest();
        }
        tried
    }

    /// What is to be expected of up to `most` tokens, in tokens, less what they cost.
    pub(super) fn gain(&self, cost: f64, most: usize) -> f64 {
        if self.pause > 0 {
            return 0.0;
        }
        (1..=self.worthwhile(cost, most)).map(|guessed| self.right.powi(guessed as i32) - cost).sum()
    }

    fn worthwhile(&self, cost: f64, most: usize) -> usize {
        (1..=most).take_while(|&guessed| self.right.powi(guessed as i32) > cost).count()
    }

    /// Of `guessed` tokens, the first `right` ones were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        // Those behind the first wrong one tell nothing.
        for index in 0..guessed.min(right + 1) {
            let outcome = if index < right { 1.0 } else { 0.0 };
            self.right += (outcome - self.right) * self.source.weight();
        }
        match self.source {
            Source::Lookup if right == 0 => self.rest(),
            // A draft model rests when it is not worth its cost, and not for a single wrong token.
            Source::Model if right < guessed => {}
            _ => self.next_pause = FIRST_PAUSE,
        }
    }

    fn rest(&mut self) {
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
    }
}

/// What a further row costs in a step of so many rows, as a share of what each row of the step costs. From the decode
/// speeds of `cargo xtask bench engine`: a step of 1, 8, 32 rows takes 4.8, 14.2, 36.9 ms.
pub(super) fn row_cost(rows: usize) -> f64 {
    match rows {
        0..=2 => 0.3,
        3..=8 => 0.55,
        9..=20 => 0.75,
        _ => 0.95,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 8;

    /// Tokens that are guessed in each of `steps` steps, of which `right` are right.
    fn guesses(steps: usize, rows: usize, right: impl Fn(usize) -> usize) -> Vec<usize> {
        guesses_of(Policy::new(Source::Lookup), steps, row_cost(rows), right)
    }

    /// The same of any source, at any cost.
    fn guesses_of(mut policy: Policy, steps: usize, cost: f64, right: impl Fn(usize) -> usize) -> Vec<usize> {
        let step = |step| {
            let most = policy.most(cost, MOST);
            policy.learn(most, most.min(right(step)));
            most
        };
        (0..steps).map(step).collect()
    }

    #[test]
    fn what_is_right_is_guessed_further() {
        assert_eq!(guesses(40, 1, |_| MOST).last(), Some(&MOST));
        assert!(guesses(40, 8, |_| MOST).iter().all(|&most| most > 0));
    }

    #[test]
    fn what_is_wrong_is_hardly_guessed() {
        let tokens: usize = guesses(1000, 1, |_| 0).iter().sum();
        assert!((10..80).contains(&tokens), "{tokens}");
    }

    #[test]
    fn a_text_that_begins_to_repeat_is_noticed() {
        let guessed = guesses(300, 1, |step| if step < 200 { 0 } else { MOST });
        assert_eq!(guessed.last(), Some(&MOST));
    }

    #[test]
    fn nothing_is_guessed_in_full_steps() {
        assert_eq!(guesses(1, 50, |_| 0), [0]);
    }

    #[test]
    fn a_draft_model_that_is_right_now_and_then_goes_on() {
        // Two of three tokens, on the average.
        let right = |step: usize| [2, 0, 3, 8, 1, 2][step % 6];
        let guessed = guesses_of(Policy::new(Source::Model), 600, 0.35, right);
        let silent = guessed.iter().filter(|&&most| most == 0).count();
        assert!(silent < 60 && guessed.iter().sum::<usize>() > 900, "{silent} silent steps");
    }

    #[test]
    fn a_draft_model_that_is_wrong_hardly_guesses() {
        let tokens: usize = guesses_of(Policy::new(Source::Model), 1000, 0.35, |_| 0).iter().sum();
        assert!((10..80).contains(&tokens), "{tokens}");
        let guessed =
            guesses_of(Policy::new(Source::Model), 400, 0.35, |step| if step < 200 { 0 } else { MOST });
        assert_eq!(guessed.last(), Some(&MOST), "it is noticed when it is right again");
    }

    #[test]
    fn a_draft_model_that_costs_too_much_is_never_asked() {
        assert_eq!(guesses_of(Policy::new(Source::Model), 9, 1.1, |_| MOST), [0; 9]);
    }

    proptest! {
        /// Whatever was learnt: nothing is guessed that is expected to lose, but for single attempts, and gains are never
        /// negative.
        #[test]
        fn guesses_are_expected_to_gain(
            outcomes in prop::collection::vec((0..9usize, 0..9usize), 0..40),
            cost in 0.0..1.5_f64,
            most in 0..12usize,
            model: bool,
        ) {
            let mut policy = Policy::new(if model { Source::Model } else { Source::Lookup });
            outcomes.iter().for_each(|&(guessed, right)| policy.learn(guessed, right.min(guessed)));
            prop_assert!((0.0..=1.0).contains(&policy.right));
            let gain = policy.gain(cost, most);
            let guessed = policy.most(cost, most);
            prop_assert!(gain >= 0.0 && guessed <= most);
            prop_assert!(guessed <= 1 || gain > 0.0);
        }
    }
}
