//! How long a slow hub is waited for.
//!
//! A hub that sends a byte now and then would otherwise keep a pull alive for ever: each read succeeds, and each
//! connection brings something.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

/// Fewest bytes that a connection has to bring in each [`WINDOW`].
const MIN_BYTES: u64 = 64 << 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Attempts in a row that bring little.
const MAX_FRUITLESS: u32 = 5;
/// Before the second fruitless attempt; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// An attempt that brings less than one part in this many of the file is fruitless, too: so their number is bounded.
const MOST_PARTS: u64 = 4096;

/// A body, as long as it comes fast enough.
pub(crate) struct Paced<R> {
    inner: R,
    pace: Pace,
}

/// The rate of one connection.
#[derive(Debug)]
struct Pace {
    since: Instant,
    bytes: u64,
}

/// The attempts to get one file.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// Fewest bytes that count as progress.
    min_progress: u64,
    fruitless: u32,
}

impl<R: Read> Paced<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, pace: Pace { since: Instant::now(), bytes: 0 } }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 && !self.pace.advance(n as u64, Instant::now()) {
            let reason = "the connection brought less than 64 KiB in a minute";
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        Ok(n)
    }
}

impl Pace {
    /// Counts bytes that came until `now`; false if they were too few.
    fn advance(&mut self, bytes: u64, now: Instant) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if now.duration_since(self.since) < WINDOW {
            return true;
        }
        let enough = self.bytes >= MIN_BYTES;
        *self = Self { since: now, bytes: 0 };
        enough
    }
}

impl Attempts {
    /// Of a file of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { min_progress: MIN_BYTES.max(size / MOST_PARTS), fruitless: 0 }
    }

    /// After an attempt that brought `bytes` and not the whole file: how long to wait before the next one, or `None`
    /// to give up.
    pub(crate) fn again_after(&mut self, bytes: u64) -> Option<Duration> {
        self.fruitless = if bytes >= self.min_progress { 0 } else { self.fruitless + 1 };
        match self.fruitless {
            0 => Some(Duration::ZERO),
            MAX_FRUITLESS.. => None,
            fruitless => Some(FIRST_PAUSE * 2_u32.pow(fruitless - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_byte_now_and_then_is_too_slow() {
        let start = Instant::now();
        let mut pace = Pace { since: start, bytes: 0 };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(pace.advance(1, at(30)) && pace.advance(1, at(59)));
        assert!(!pace.advance(1, at(60)));
        // A pause alone is not: the next read may bring much.
        assert!(pace.advance(MIN_BYTES, at(179)));
        assert!(!pace.advance(MIN_BYTES - 1, at(239)));
    }

    #[test]
    fn attempts_that_bring_little_are_given_up() {
        let mut attempts = Attempts::new(1 << 30);
        let pauses: Vec<_> =
            std::iter::from_fn(|| attempts.again_after(1)).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000]);
        let mut attempts = Attempts::new(100_000);
        assert!((0..1000).all(|_| attempts.again_after(MIN_BYTES) == Some(Duration::ZERO)));
    }

    proptest! {
        /// However a hub divides a file, the number of attempts is bounded.
        #[test]
        fn the_number_of_attempts_is_bounded(size in 1_u64..1 << 42, pieces in prop::collection::vec(0_u64..1 << 30, 1..8)) {
            let (mut attempts, mut left, mut tries) = (Attempts::new(size), size, 0_u64);
            for piece in pieces.iter().cycle() {
                tries += 1;
                left = left.saturating_sub(*piece);
                if left == 0 || attempts.again_after(*piece).is_none() {
                    break;
                }
            }
            prop_assert!(tries <= (MOST_PARTS + 1) * u64::from(MAX_FRUITLESS), "{}", tries);
        }
    }
}
