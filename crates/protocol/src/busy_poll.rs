//! Whether a reader looks again for a little while before it goes to sleep.
//!
//! Waking a side that sleeps takes both of them a system call, and as long as many frames do. Where frames follow each
//! other closely, as when a client asks one thing after the other, it is cheaper to keep looking. Where they are far
//! apart, polling would be wasted, so the reader sleeps at once.

use std::time::{Duration, Instant};

/// For how long a reader looks on: what two wake-ups cost on a virtual machine.
pub const LONGEST: Duration = Duration::from_micros(100);

/// A reader looks on only after this many frames, each within [`LONGEST`] of the one before.
const IN_A_ROW: u32 = 8;

/// What one reader has seen. Pure: time comes in as an argument.
#[derive(Debug, Default)]
pub struct BusyPoll {
    /// When it found nothing for the first time since the last frame.
    idle_since: Option<Instant>,
    /// Frames in a row that were close.
    in_a_row: u32,
}

impl BusyPoll {
    /// At `now`, a frame was read.
    pub fn found(&mut self, now: Instant) {
        if let Some(since) = self.idle_since.take() {
            let is_close = now.saturating_duration_since(since) < LONGEST;
            self.in_a_row = if is_close { self.in_a_row.saturating_add(1) } else { 0 };
        }
    }

    /// At `now`, there was nothing to read. Whether the reader looks again without sleeping.
    pub fn looks_on(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        self.in_a_row >= IN_A_ROW && now.saturating_duration_since(since) < LONGEST
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// How often a reader looks in vain before each frame. Frames come at these times, in microseconds. The reader looks
    /// every 10 us while it does not sleep, and a frame wakes it.
    fn looks(frames: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let begin = Instant::now();
        let at = |micros| begin + Duration::from_micros(micros);
        let mut poll = BusyPoll::default();
        let mut now = 0;
        let look = |frame: u64| {
            let mut looks = 0;
            while now < frame && poll.looks_on(at(now)) {
                looks += 1;
                now += 10;
            }
            now = now.max(frame);
            poll.found(at(now));
            looks
        };
        frames.into_iter().map(look).collect()
    }

    const ROW: u64 = IN_A_ROW as u64;

    #[test]
    fn a_reader_looks_on_where_frames_are_close() {
        let mut frames: Vec<_> = (1..=ROW + 3).map(|n| n * 50).collect();
        let end = frames.last().unwrap();
        // After a pause it is found asleep, and has to see as many again.
        frames.extend([end + 1000, end + 1050, end + 1100]);
        let mut expected = vec![0; ROW as usize];
        expected.extend([5, 5, 5, 10, 0, 0]);
        assert_eq!(looks(frames), expected);
    }

    #[test]
    fn frames_that_are_far_apart_cost_nothing() {
        assert!(looks((1..100).map(|n| n * 1000)).iter().all(|looks| *looks == 0));
    }

    #[test]
    fn a_single_gap_begins_the_count_again() {
        let gaps = (1..100).map(|n| if n % ROW == 0 { 150 } else { 50 });
        let frames = gaps.scan(0, |time, gap| {
            *time += gap;
            Some(*time)
        });
        assert!(looks(frames).iter().all(|looks| *looks == 0));
    }
}
