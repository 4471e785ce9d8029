//! Whether a reader looks again for a little while before it goes to sleep.
//!
//! Waking a side that sleeps takes both of them a system call, and several times as long as a frame does. Where frames
//! follow each other closely, as when a client asks one thing after the other, it is cheaper to keep looking. Where they
//! don't, looking would be in vain, and isn't done: a reader looks on only after a frame that came within [`LONGEST`] of
//! the one before.

use std::time::{Duration, Instant};

/// For how long a reader looks on: about what two wake-ups cost.
pub const LONGEST: Duration = Duration::from_micros(50);

/// What one reader has seen. Pure: time comes in as an argument.
#[derive(Debug, Default)]
pub struct BusyPoll {
    /// When it found nothing for the first time since the last frame.
    idle_since: Option<Instant>,
    /// The last frame came soon after the one before.
    is_close: bool,
}

impl BusyPoll {
    /// At `now`, frames were read.
    pub fn found(&mut self, now: Instant) {
        if let Some(since) = self.idle_since.take() {
            self.is_close = now.saturating_duration_since(since) < LONGEST;
        }
    }

    /// At `now`, there was nothing to read. Whether the reader looks again without sleeping.
    pub fn looks_on(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        self.is_close &= now.saturating_duration_since(since) < LONGEST;
        self.is_close
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times, in microseconds, at which a reader looks when frames come at `frames`, also in microseconds. It looks
    /// every 10 us while it does not sleep, and a frame wakes it.
    fn looks(frames: &[u64]) -> Vec<Vec<u64>> {
        let begin = Instant::now();
        let at = |micros| begin + Duration::from_micros(micros);
        let mut poll = BusyPoll::default();
        let mut now = 0;
        let mut all = Vec::new();
        for &frame in frames {
            let mut looks = Vec::new();
            while now < frame && poll.looks_on(at(now)) {
                looks.push(now);
                now += 10;
            }
            now = now.max(frame);
            poll.found(at(now));
            all.push(looks);
        }
        all
    }

    #[test]
    fn a_reader_looks_on_where_frames_are_close() {
        let none = Vec::new();
        assert_eq!(looks(&[30, 60, 100]), [none.clone(), vec![30, 40, 50], vec![60, 70, 80, 90]]);
        // After the pause it is found asleep, and looks on only when the next was close again.
        let some: Vec<u64> = vec![30, 40, 50, 60, 70];
        assert_eq!(looks(&[30, 1000, 1030, 1050]), [none.clone(), some, none, vec![1030, 1040]]);
    }

    #[test]
    fn frames_that_are_far_apart_cost_nothing() {
        let frames: Vec<u64> = (1..100).map(|n| n * 1000).collect();
        assert!(looks(&frames).iter().all(Vec::is_empty));
    }
}
