//! Whether a submission is worth holding until others can share its frame. Pure.
//!
//! A frame costs about a microsecond, and up to ten more if the worker has to be woken for it. Holding saves that only
//! if another submission comes while the first is held, and costs its latency in any case. So nothing is held after a
//! silence; and a hold ends after a few submissions could have come, however long it may be.

use std::time::{Duration, Instant};

/// How often submissions came lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrivals {
    last: Option<Instant>,
    /// Smoothed time between two of them; `None` after a silence.
    gap: Option<Duration>,
}

/// A new gap counts for one part in as many.
const SMOOTHING: u32 = 8;

/// Submissions for which a hold waits. More of them make a frame hardly cheaper for each.
const WORTH: u32 = 8;

impl Arrivals {
    /// A submission has come. After more than `window` without one, nothing is known any more.
    pub(super) fn note(&mut self, now: Instant, window: Duration) {
        let since = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        self.gap = match (since.filter(|since| *since <= window), self.gap) {
            (None, _) => None,
            (Some(since), None) => Some(since),
            (Some(since), Some(gap)) => Some((gap * (SMOOTHING - 1) + since) / SMOOTHING),
        };
    }

    /// How long the oldest submission may be held.
    pub(super) fn hold(&self, window: Duration) -> Duration {
        self.gap.map_or(Duration::ZERO, |gap| hold(gap, window))
    }
}

/// How long a submission is held while others come every `gap`, and nothing may be held longer than `window`.
fn hold(gap: Duration, window: Duration) -> Duration {
    // In half a window, another one is likely to come even if they come at random: in six of seven cases.
    if gap > window / 2 { Duration::ZERO } else { window.min(gap * WORTH) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(4);

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// What is known after submissions with these gaps in between.
    fn after(gaps: &[Duration], window: Duration) -> Arrivals {
        let mut now = Instant::now();
        let mut arrivals = Arrivals::default();
        arrivals.note(now, window);
        for gap in gaps {
            now += *gap;
            arrivals.note(now, window);
        }
        arrivals
    }

    #[test]
    fn a_first_submission_is_not_held_and_neither_is_one_after_a_silence() {
        assert_eq!(after(&[], WINDOW).hold(WINDOW), Duration::ZERO);
        assert!(after(&[micros(10); 50], WINDOW).hold(WINDOW) > Duration::ZERO);
        let silence = [&[micros(10); 50][..], &[WINDOW + micros(1)]].concat();
        assert_eq!(after(&silence, WINDOW).hold(WINDOW), Duration::ZERO);
    }

    #[test]
    fn a_steady_rate_is_held_for_what_is_likely_to_come() {
        assert_eq!(after(&[micros(10); 200], WINDOW).hold(WINDOW), micros(80));
        assert_eq!(after(&[micros(1000); 200], WINDOW).hold(WINDOW), WINDOW);
        assert_eq!(
            after(&[micros(3000); 200], WINDOW).hold(WINDOW),
            Duration::ZERO,
            "one in a window at most"
        );
    }

    proptest! {
        #[test]
        fn a_hold_is_within_the_window_and_never_without_another_in_sight(
            gaps in prop::collection::vec(0..9_000_u64, 0..60), window in 0..5_000_u64,
        ) {
            let gaps: Vec<_> = gaps.into_iter().map(micros).collect();
            let window = micros(window);
            let arrivals = after(&gaps, window);
            let hold = arrivals.hold(window);
            prop_assert!(hold <= window);
            if gaps.last().is_none_or(|last| *last > window) {
                prop_assert_eq!(hold, Duration::ZERO, "it was idle");
            }
            if !hold.is_zero() {
                prop_assert!(arrivals.gap.unwrap() * 2 <= window, "another one is not likely");
            }
        }

        #[test]
        fn submissions_that_come_more_often_are_not_held_longer(a in 0..3_000_u64, b in 0..3_000_u64) {
            let (often, rarely) = (hold(micros(a.min(b)), WINDOW), hold(micros(a.max(b)), WINDOW));
            prop_assert!(often <= rarely || rarely.is_zero());
        }

        #[test]
        fn without_a_window_nothing_is_held(gaps in prop::collection::vec(1..9_000_u64, 0..60)) {
            let gaps: Vec<_> = gaps.into_iter().map(micros).collect();
            prop_assert_eq!(after(&gaps, Duration::ZERO).hold(Duration::ZERO), Duration::ZERO);
        }
    }
}
