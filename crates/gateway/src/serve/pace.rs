//! How soon a place comes free, from how often it did lately. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Places that came free of which the rate is taken.
const REMEMBERED: usize = 32;

/// Time between two places that come free, before anything is known.
const UNKNOWN: Duration = Duration::from_secs(1);

/// Shortest and longest time that a client is told: it should not come back at once, nor give up.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// How often places come free while all are taken, and what was promised to those who were turned away.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the places came free.
    freed: VecDeque<Instant>,
    /// Since when they are counted; `None` while places are free.
    since: Option<Instant>,
    /// The interval when places were last scarce.
    last_interval: Duration,
    /// The place that was promised last comes free at this time.
    promised: Option<Instant>,
}

impl Pace {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self { freed: VecDeque::new(), since: None, last_interval: UNKNOWN, promised: None }
    }

    /// All places are taken, or not all.
    pub(super) fn set_full(&mut self, is_full: bool, now: Instant) {
        if is_full {
            self.since.get_or_insert(now);
        } else if self.since.is_some() {
            self.last_interval = self.interval(now);
            self.since = None;
            self.freed.clear();
        }
    }

    /// A place came free.
    pub(super) fn freed(&mut self, now: Instant) {
        if self.since.is_none() {
            return;
        }
        if self.freed.len() == REMEMBERED {
            self.since = self.freed.pop_front();
        }
        self.freed.push_back(now);
    }

    /// Time between two places that come free. It grows while none does.
    pub(super) fn interval(&self, now: Instant) -> Duration {
        let Some(since) = self.since else { return self.last_interval };
        let elapsed = now.saturating_duration_since(since);
        match self.freed.len() as u32 {
            0 => elapsed.max(self.last_interval),
            count => elapsed / count,
        }
    }

    /// When somebody who is turned away now should come back. Each is promised a place of its own: if all came back at
    /// the same time, all but one would be turned away again.
    pub(super) fn promise(&mut self, now: Instant) -> Duration {
        let interval = self.interval(now);
        let last = self.promised.map_or(now, |promised| promised.max(now));
        let promised = (last + interval).min(now + LONGEST);
        self.promised = Some(promised);
        promised.saturating_duration_since(now).clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_interval_is_that_of_the_last_places_and_grows_while_none_comes_free() {
        let start = Instant::now();
        let mut pace = Pace::new();
        assert_eq!(pace.interval(start), UNKNOWN);
        pace.set_full(true, start);
        assert_eq!(pace.interval(start + millis(3000)), millis(3000));
        for n in 1..=100 {
            pace.freed(start + millis(10_000) + millis(200) * n);
        }
        let end = start + millis(30_000);
        assert_eq!(pace.interval(end), millis(200));
        assert_eq!(pace.interval(end + millis(6400)), millis(400));
        pace.set_full(false, end);
        pace.freed(end + millis(1));
        pace.set_full(true, end + millis(100_000));
        assert_eq!(pace.interval(end + millis(100_001)), millis(200), "while nobody waits, it says nothing");
    }

    #[test]
    fn each_is_promised_a_place_of_its_own() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.set_full(true, start);
        for n in 1..=10 {
            pace.freed(start + millis(500) * n);
        }
        let now = start + millis(5000);
        let promised: Vec<_> = (0..4).map(|_| pace.promise(now)).collect();
        assert_eq!(promised, [millis(500), millis(1000), millis(1500), millis(2000)]);
        // Nobody is told to come back after an hour.
        assert_eq!((0..1000).map(|_| pace.promise(now)).max(), Some(LONGEST));
        // What is past was kept or not; it makes nobody wait.
        let later = now + millis(100_000);
        pace.set_full(false, later);
        assert!(pace.promise(later) < millis(12_000));
    }

    #[test]
    fn nobody_is_told_to_come_back_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.set_full(true, start);
        (0..50).for_each(|_| pace.freed(start));
        assert_eq!(pace.promise(start), SHORTEST);
    }
}
