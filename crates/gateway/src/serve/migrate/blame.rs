//! Whether a request is the cause of its workers' ends. Pure.
//!
//! A request that brings a worker down does so at the same position again, since workers compute the same thing. So only
//! losses without a new token in between count together.

use crate::worker::loss::Loss;

/// The losses of one request since its last new token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blame {
    /// Tokens of the output at the last loss.
    position: usize,
    crashes: u32,
    kills: u32,
}

/// A request that was in flight during this many crashes is not sent to another worker.
const MAX_CRASHES: u32 = 2;

/// A process that runs out of memory is killed like one that a person ends. So a request that needs
/// too much memory is stopped in the end, while one that merely witnessed a few kills goes on.
const MAX_KILLS: u32 = 8;

impl Blame {
    /// Notes a loss behind `tokens` tokens of output. True if the request is to blame.
    pub(super) fn on(&mut self, loss: &Loss, tokens: usize) -> bool {
        if tokens > self.position {
            *self = Self { position: tokens, ..Self::default() };
        }
        match loss {
            Loss::Left(_) => {}
            Loss::Killed(_) => self.kills += 1,
            Loss::Crashed(_) => self.crashes += 1,
        }
        self.crashes >= MAX_CRASHES || self.kills >= MAX_KILLS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn crash() -> Loss {
        Loss::Crashed("it broke".into())
    }

    #[test]
    fn two_crashes_at_the_same_position_are_the_requests_fault() {
        let mut blame = Blame::default();
        assert!(!blame.on(&crash(), 0));
        assert!(blame.on(&crash(), 0));
        let mut blame = Blame::default();
        assert!(!blame.on(&crash(), 5));
        assert!(!blame.on(&Loss::Left("restart".into()), 5));
        assert!(blame.on(&crash(), 5));
    }

    #[test]
    fn a_request_that_got_a_token_in_between_is_innocent() {
        let mut blame = Blame::default();
        for tokens in 1..100 {
            assert!(!blame.on(&crash(), tokens));
        }
    }

    #[test]
    fn kills_are_forgiven_for_longer() {
        let mut blame = Blame::default();
        let survived = (0..100).take_while(|_| !blame.on(&Loss::Killed("by 9".into()), 3)).count();
        assert_eq!(survived as u32, MAX_KILLS - 1);
    }

    proptest! {
        /// However losses mix, one that is no crash and no kill never ends a request, and without new tokens any
        /// request has its end.
        #[test]
        fn every_request_ends_and_no_planned_move_ends_one(losses in prop::collection::vec(0..3u8, 0..40)) {
            let mut blame = Blame::default();
            let mut counted = 0;
            for loss in losses {
                let (loss, counts) = match loss {
                    0 => (Loss::Left(String::new()), 0),
                    1 => (Loss::Killed(String::new()), 1),
                    _ => (Loss::Crashed(String::new()), 1),
                };
                counted += counts;
                if blame.on(&loss, 0) {
                    prop_assert!(counted >= MAX_CRASHES);
                    return Ok(());
                }
            }
            prop_assert!(counted < MAX_CRASHES + MAX_KILLS);
        }
    }
}
