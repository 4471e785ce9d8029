//! When a worker that died is started again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::Workers;

/// A process that ended without having been told to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub(super) at: Instant,
    /// For how long it had served, if it had.
    pub(super) served: Option<Duration>,
    /// It reported that the model can't be loaded.
    pub(super) permanent: bool,
}

/// A worker's deaths so far.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// Times of recent ones; only those within the crash-loop window matter.
    recent: VecDeque<Instant>,
    /// Since the worker last served for a whole window.
    in_a_row: u32,
    /// Starts that were put off since then.
    put_off: u32,
}

impl Deaths {
    /// When the next process is started. The first death in a row of a worker that served puts nothing off; then the
    /// back-off doubles with every death; in a crash loop it is a whole window.
    pub(super) fn next_start(&mut self, policy: &Workers, death: Death) -> Instant {
        let (now, window) = (death.at, policy.crash_loop_window);
        if death.served.is_some_and(|served| served >= window) {
            (self.in_a_row, self.put_off) = (0, 0);
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|death| now - *death >= window) {
            self.recent.pop_front();
        }
        if death.permanent || self.recent.len() >= policy.crash_loop_deaths {
            return now + window;
        }
        if self.in_a_row == 1 && death.served.is_some() {
            return now;
        }
        let (first, longest) = (*policy.restart_backoff.start(), *policy.restart_backoff.end());
        let doublings = self.put_off.min(20);
        self.put_off = self.put_off.saturating_add(1);
        now + first.saturating_mul(1 << doublings).min(longest)
    }
}
