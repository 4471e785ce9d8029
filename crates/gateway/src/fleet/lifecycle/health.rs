//! Whether a ready worker still works, judged by the frames that come from it.
//!
//! It is frozen if nothing comes from it, if it has work and does no step, or if it has work and its kernels stand still
//! within a step. The last of these shows long before a step has taken too long, but not every backend counts what its
//! kernels do.

use std::time::{Duration, Instant};

use protocol::message::Heartbeat;

use crate::config::Workers;

/// What came from a ready worker, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Health {
    last_frame: Instant,
    /// The step counter of the last heartbeat.
    step: u64,
    /// When the first heartbeat came that had sequences to extend and an unchanged step counter.
    stuck_since: Option<Instant>,
    standing: Option<Standing>,
    preparing: Option<Preparing>,
}

/// A worker with sequences to extend, which counts what its kernels do.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Standing {
    progress: u64,
    /// When the first heartbeat came that reported this progress.
    since: Instant,
    /// When the last one did.
    reported: Instant,
}

/// Kernels may stand still for this part of the longest silence. The rest is for what heartbeats add: the time until the
/// first that says so, and until the last one.
const STANDSTILL: (u32, u32) = (2, 3);

/// A heartbeat that comes later than this part of the longest silence after the one before it says nothing about
/// kernels: the whole worker did not run meanwhile.
const LATE: u32 = 3;

/// A prompt that is being prepared.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Preparing {
    /// When the first heartbeat came that reported it.
    since: Instant,
    /// When the last such heartbeat came.
    reported: Instant,
    /// For how long it had been in preparation by then, by the worker's clock.
    age: Duration,
}

impl Health {
    /// For a worker that has just become ready.
    pub(super) fn new(now: Instant) -> Self {
        Self { last_frame: now, step: 0, stuck_since: None, standing: None, preparing: None }
    }

    /// A frame came.
    pub(super) fn alive(&mut self, now: Instant) {
        self.last_frame = now;
    }

    /// A heartbeat came.
    pub(super) fn heartbeat(&mut self, heartbeat: &Heartbeat, policy: &Workers, now: Instant) {
        self.last_frame = now;
        if heartbeat.step != self.step || heartbeat.runnable == 0 {
            self.step = heartbeat.step;
            self.stuck_since = None;
        } else {
            self.stuck_since.get_or_insert(now);
        }
        self.standing = match (heartbeat.progress, self.standing) {
            (None, _) => None,
            _ if heartbeat.runnable == 0 => None,
            (Some(progress), Some(before))
                if before.progress == progress
                    && now - before.reported <= policy.heartbeat_timeout / LATE =>
            {
                Some(Standing { reported: now, ..before })
            }
            (Some(progress), _) => Some(Standing { progress, since: now, reported: now }),
        };
        let age = Duration::from_millis(heartbeat.oldest_preparation_millis);
        self.preparing = match self.preparing {
            _ if age.is_zero() => None,
            // The oldest one can only be the same if it is older now.
            Some(Preparing { since, age: before, .. }) if age > before => {
                Some(Preparing { since, reported: now, age })
            }
            _ => Some(Preparing { since: now, reported: now, age }),
        };
    }

    /// Nothing that came so far counts against the worker.
    pub(super) fn restart(&mut self, now: Instant) {
        self.last_frame = now;
        if let Some(since) = &mut self.stuck_since {
            *since = now;
        }
        if let Some(standing) = &mut self.standing {
            (standing.since, standing.reported) = (now, now);
        }
        if let Some(preparing) = &mut self.preparing {
            preparing.since = now;
        }
    }

    /// When it counts as frozen if nothing else comes.
    pub(super) fn deadline(&self, policy: &Workers) -> Instant {
        let verdicts = [
            Some(self.silent_at(policy)),
            self.stuck_at(policy),
            self.stood_still_at(policy),
            self.preparing_until(policy),
        ];
        verdicts.into_iter().flatten().min().unwrap_or(self.last_frame)
    }

    /// Why it counts as frozen, if it does.
    pub(super) fn verdict(&self, policy: &Workers, now: Instant) -> Option<String> {
        let over = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if over(Some(self.silent_at(policy))) {
            Some(format!("it froze: nothing came from it for {:?}", policy.heartbeat_timeout))
        } else if over(self.stuck_at(policy)) {
            Some(format!("it froze: no step in {:?} of work", policy.step_timeout))
        } else if over(self.stood_still_at(policy)) {
            Some(format!("it froze: its kernels did nothing for {:?} of a step", standstill(policy)))
        } else if over(self.preparing_until(policy)) {
            Some(format!("it froze: one prompt was in preparation for {:?}", policy.step_timeout))
        } else {
            None
        }
    }

    fn silent_at(&self, policy: &Workers) -> Instant {
        self.last_frame + policy.heartbeat_timeout
    }

    fn stuck_at(&self, policy: &Workers) -> Option<Instant> {
        self.stuck_since.map(|since| since + policy.step_timeout)
    }

    /// Only what a heartbeat has said counts, and not how long ago it was: the kernels may have gone on since.
    fn stood_still_at(&self, policy: &Workers) -> Option<Instant> {
        self.standing.filter(|it| it.reported - it.since >= standstill(policy)).map(|it| it.reported)
    }

    /// By both clocks: the worker's may have gone on while the worker was suspended, and a later prompt may be taken
    /// for an earlier one.
    fn preparing_until(&self, policy: &Workers) -> Option<Instant> {
        let limit = policy.step_timeout;
        self.preparing.map(|Preparing { since, reported, age }| {
            (since + limit).max(reported + limit.saturating_sub(age))
        })
    }
}

fn standstill(policy: &Workers) -> Duration {
    policy.heartbeat_timeout * STANDSTILL.0 / STANDSTILL.1
}
