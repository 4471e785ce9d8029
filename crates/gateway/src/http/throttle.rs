//! Keeps a log readable, whatever clients do.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// At most one line in each [`PERIOD`]. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttle(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    last: Option<Instant>,
    /// Lines that were left out since then.
    skipped: u64,
}

const PERIOD: Duration = Duration::from_secs(5);

impl Throttle {
    /// Whether to write a line now, and how many were left out since the last one.
    pub(super) fn line(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, line) = state.next(Instant::now());
        *state = next;
        line
    }
}

impl State {
    fn next(self, now: Instant) -> (Self, Option<u64>) {
        match self.last {
            Some(last) if now.saturating_duration_since(last) < PERIOD => {
                (Self { skipped: self.skipped + 1, ..self }, None)
            }
            _ => (Self { last: Some(now), skipped: 0 }, Some(self.skipped)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_apart_and_say_how_many_are_missing() {
        let start = Instant::now();
        let mut state = State::default();
        let mut lines = Vec::new();
        for millis in (0..12_000).step_by(10) {
            let (next, line) = state.next(start + Duration::from_millis(millis));
            state = next;
            lines.extend(line.map(|skipped| (millis, skipped)));
        }
        assert_eq!(lines, [(0, 0), (5000, 499), (10_000, 499)]);
    }
}
