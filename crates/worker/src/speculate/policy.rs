//! How many tokens are worth a guess. Pure.

/// Weight of the latest outcome.
const WEIGHT: f64 = 0.2;

/// After a guess of which nothing was right, this many tokens pass before the next one; each further failure doubles it.
const FIRST_PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 64;

/// Where a row costs this share of a token, not even one guess is tried.
const TOO_MUCH: f64 = 0.9;

/// What the guesses of one sequence were worth.
#[derive(Debug)]
pub(super) struct Policy {
    /// How often a guessed token was right, lately.
    right: f64,
    /// Tokens without a guess from now on.
    pause: u32,
    /// The length of the next pause.
    next_pause: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { right: 0.5, pause: 0, next_pause: FIRST_PAUSE }
    }
}

impl Policy {
    /// How many tokens to guess in a step of so many `rows`, up to `most`: as long as a token is more likely right than
    /// what its row costs, in tokens that the step would compute otherwise.
    pub(super) fn most(&mut self, rows: usize, most: usize) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        let cost = row_cost(rows);
        let worth = |&guessed: &usize| self.right.powi(guessed as i32) > cost;
        let guessed = (1..=most).take_while(worth).count();
        // What is never tried is never learnt.
        if cost < TOO_MUCH { guessed.max(1).min(most) } else { guessed }
    }

    /// Of `guessed` tokens, the first `right` ones were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        // Those behind the first wrong one tell nothing.
        for index in 0..guessed.min(right + 1) {
            let outcome = if index < right { 1.0 } else { 0.0 };
            self.right += (outcome - self.right) * WEIGHT;
        }
        if right > 0 {
            self.next_pause = FIRST_PAUSE;
        } else {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What a further row costs in a step of so many rows, as a share of what each row of the step costs. From the decode
/// speeds of `cargo xtask bench engine`: a step of 1, 8, 32 rows takes 4.8, 14.2, 36.9 ms.
fn row_cost(rows: usize) -> f64 {
    match rows {
        0..=2 => 0.3,
        3..=8 => 0.55,
        9..=20 => 0.75,
        _ => 0.95,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    /// Tokens that are guessed in each of `steps` steps, of which `right` are right.
    fn guesses(steps: usize, rows: usize, right: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut policy = Policy::default();
        let step = |step| {
            let most = policy.most(rows, MOST);
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
}
