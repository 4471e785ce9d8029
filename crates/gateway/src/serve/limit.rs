//! How many streams of a model run at the same time: a limit that follows what the workers bear. Pure.
//!
//! ```text
//! pressure = the largest of
//!   first token     time to the first token, beyond what the prompt takes alone ÷ the target
//!   keys, values    share of their memory in use                                ÷ KV_HIGH
//!   memory          share of what workers could have that they have             ÷ MEMORY_HIGH
//!   worker's queue  sequences on workers                                        ÷ those with a place
//!
//! above 1                ─► limit × 1/pressure, but at least half       (fast)
//! low, and limit reached ─► limit + a twentieth, at least 1, a second   (slow)
//! else                   ─► as it is
//! ```
//!
//! From the literature: to decrease by a factor and to increase by steps is AIMD (Chiu and Jain, 1989; TCP's rule). To
//! compare a delay with what it is without load, and to stop between two thresholds instead of going on until something
//! is lost, is TCP Vegas (Brakmo and Peterson, 1994). The factor from the ratio of delays, and a limit that does not
//! grow while nobody reaches it, are from Netflix's concurrency-limits (its gradient limit). To approach the limit that
//! was too high slowly is CUBIC's plateau (RFC 9438).
//!
//! What keeps it from oscillating: between the thresholds it rests; after a change only requests that were admitted
//! since then are judged, as the others tell of the old limit; it does not sink further while more run than it allows;
//! and it stays a while below a limit that was too high. The time that a request waits in the gateway's queue does not
//! count: that is what a limit causes, and would make it sink without end.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::StreamRegistry;

/// What the limit may be, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitSettings {
    /// Least limit.
    pub(super) min: usize,
    /// Largest limit.
    pub(super) max: usize,
    /// The limit before anything is known.
    pub(super) start: usize,
    /// Time to the first token that other requests may cost.
    pub(super) first_token_target: Duration,
}

impl From<&StreamRegistry> for LimitSettings {
    fn from(settings: &StreamRegistry) -> Self {
        let StreamRegistry { min_streams: min, max_streams: max, start_streams: start, .. } = *settings;
        Self { min, max, start, first_token_target: settings.first_token_target }
    }
}

/// The limit of one model.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    settings: LimitSettings,
    limit: usize,
    /// When it became this.
    changed: Instant,
    /// It was reached since then.
    reached: bool,
    /// First tokens of requests that were admitted since then, the latest last.
    samples: VecDeque<Sample>,
    /// Seconds for a token of a prompt while few others run.
    alone: Option<f64>,
    /// The workers' queues, as last reported.
    worker_queues: VecDeque<usize>,
    /// The last limit that was too high, and when that was found.
    ceiling: Option<(usize, Instant)>,
}

/// The first token of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FirstToken {
    /// When the request was admitted.
    pub(super) admitted: Instant,
    /// Streams that ran then, or when the token came, with this one.
    pub(super) running: usize,
    /// From then to the token.
    pub(super) took: Duration,
    /// Tokens of its prompt that were computed, and not kept from earlier requests.
    pub(super) computed_tokens: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    running: usize,
    /// Seconds to the first token beyond what the prompt takes alone.
    excess: f64,
}

/// What goes on at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Streams that run.
    pub(super) running: usize,
    /// Those of them that have no token yet.
    pub(super) unstarted: usize,
    /// Requests that wait in the gateway.
    pub(super) waiting: usize,
    /// What the workers report.
    pub(super) workers: WorkersLoad,
}

/// What the workers of a model report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WorkersLoad {
    /// Share of the memory for keys and values that is in use, from 0 to 1.
    pub(super) kv: f64,
    /// Sequences that wait for a place in a worker.
    pub(super) queued: usize,
    /// Share of the memory that workers could have that they have, from 0 to 1.
    pub(super) memory: f64,
}

/// Why the limit sank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// First tokens come late.
    FirstToken,
    /// The memory for keys and values is nearly full.
    Kv,
    /// Workers have more sequences than places.
    WorkerQueue,
    /// The machine's memory is nearly full.
    Memory,
}

/// A pressure, above which the limit sinks if it is above 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pressure {
    cause: Cause,
    value: f64,
    /// Up to here the limit may grow.
    low: f64,
}

/// Shortest time between two changes.
const ROUND: Duration = Duration::from_secs(1);

/// For how long the limit does not grow after it sank, and for how long it stays below the one that was too high.
const HOLD: Duration = Duration::from_secs(5);
const PLATEAU: Duration = Duration::from_secs(60);

/// Samples that are kept, and the least that are judged.
const SAMPLES: usize = 64;
const FEW_SAMPLES: usize = 10;

/// How many of the latest are judged alone if they are bad, and the least of them.
const LATEST_SAMPLES: usize = 8;
const FEW_LATEST: usize = 5;

/// Pressure of the latest samples that counts although the others are better.
const SURGE: f64 = 1.5;

/// The limit grows only below this pressure.
const LOW: f64 = 0.75;

/// Shares from which on the limit sinks.
const KV_HIGH: f64 = 0.9;
const MEMORY_HIGH: f64 = 0.92;

/// Reports over which the shortest queue of the workers counts: between two steps there is always one.
const QUEUE_REPORTS: usize = 4;

/// Weight of a new sample in the time for a token of a prompt.
const ALONE_WEIGHT: f64 = 0.1;

impl AdaptiveLimit {
    /// Before anything is known.
    pub(super) fn new(settings: LimitSettings, now: Instant) -> Self {
        Self {
            limit: settings.start.clamp(settings.min, settings.max),
            settings,
            changed: now,
            reached: false,
            samples: VecDeque::new(),
            alone: None,
            worker_queues: VecDeque::new(),
            ceiling: None,
        }
    }

    /// Streams that may run.
    pub(super) fn get(&self) -> usize {
        self.limit
    }

    /// Changes what the limit may be.
    pub(super) fn set_settings(&mut self, settings: LimitSettings, now: Instant) {
        self.settings = settings;
        let limit = self.limit.clamp(settings.min, settings.max);
        if limit != self.limit {
            self.set(limit, now);
        }
    }

    /// A request had its first token.
    pub(super) fn first_token(&mut self, first: &FirstToken) {
        let FirstToken { admitted, running, took, computed_tokens } = *first;
        let (took, tokens) = (took.as_secs_f64(), f64::from(computed_tokens.max(1)));
        if running <= self.settings.min {
            let each = took / tokens;
            let alone = self.alone.get_or_insert(each);
            *alone += (each - *alone) * ALONE_WEIGHT;
        }
        if admitted < self.changed {
            return;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        let excess = (took - self.alone.unwrap_or_default() * tokens).max(0.0);
        self.samples.push_back(Sample { running, excess });
    }

    /// Judges the load, to be called about twice a second. Says why, if the limit has sunk.
    pub(super) fn tick(&mut self, load: &Load, now: Instant) -> Option<Cause> {
        self.reached |= load.running >= self.limit || load.waiting > 0;
        if self.worker_queues.len() == QUEUE_REPORTS {
            self.worker_queues.pop_front();
        }
        self.worker_queues.push_back(load.workers.queued);
        // The limit can't be the cause while nothing runs, or while more runs than it allows.
        if load.running == 0 || load.running > self.limit || now < self.changed + ROUND {
            return None;
        }
        let pressures = self.pressures(load);
        let worst = pressures.iter().flatten().max_by(|a, b| a.value.total_cmp(&b.value));
        if let Some(worst) = worst.filter(|worst| worst.value > 1.0) {
            let limit = self.sunk(worst, load.running);
            if limit >= self.limit {
                return None;
            }
            self.ceiling = Some((self.limit, now));
            self.set(limit, now);
            return Some(worst.cause);
        }
        // A request without a token yet may be one that comes late; one that has come tells.
        let known = pressures[0].is_some() || load.unstarted == 0;
        let relaxed = load.workers.queued == 0
            && pressures.iter().flatten().all(|pressure| pressure.value <= pressure.low);
        if self.reached && known && relaxed {
            self.grow(now);
        }
        None
    }

    fn grow(&mut self, now: Instant) {
        let mut limit = (self.limit + (self.limit / 20).max(1)).min(self.settings.max);
        if let Some((too_high, found)) = self.ceiling {
            if now < found + HOLD {
                return;
            }
            if now < found + PLATEAU {
                limit = limit.min(too_high - 1);
            }
        }
        if limit > self.limit {
            self.set(limit, now);
        }
    }

    fn set(&mut self, limit: usize, now: Instant) {
        self.limit = limit;
        self.changed = now;
        self.reached = false;
        self.samples.clear();
    }

    /// What the limit sinks to. If fewer run than it allows, it was these that were too many.
    fn sunk(&self, pressure: &Pressure, running: usize) -> usize {
        let running = match pressure.cause {
            Cause::FirstToken => self.samples.iter().map(|sample| sample.running).max().unwrap_or(running),
            _ => running,
        };
        let running = running.min(self.limit);
        let fewer = (running as f64 * (1.0 / pressure.value).max(0.5)) as usize;
        fewer.min(running.saturating_sub(1)).max(self.settings.min)
    }

    /// The first is that of first tokens.
    fn pressures(&self, load: &Load) -> [Option<Pressure>; 4] {
        let WorkersLoad { kv, memory, .. } = load.workers;
        let queued = self.worker_queues.iter().min().copied().unwrap_or_default();
        let placed = load.running.saturating_sub(queued).max(1);
        let queue = if queued == 0 { 0.0 } else { load.running as f64 / placed as f64 };
        [
            self.first_token_pressure().map(|value| Pressure { cause: Cause::FirstToken, value, low: LOW }),
            Some(Pressure { cause: Cause::Kv, value: of_share(kv, KV_HIGH), low: LOW }),
            Some(Pressure { cause: Cause::WorkerQueue, value: queue, low: 0.0 }),
            // Weights take a part of it, whatever the limit is.
            Some(Pressure { cause: Cause::Memory, value: of_share(memory, MEMORY_HIGH), low: 0.95 }),
        ]
    }

    /// `None` if there were too few of them. Those of times when no more ran than are always allowed count for nothing.
    fn first_token_pressure(&self) -> Option<f64> {
        let target = self.settings.first_token_target.as_secs_f64();
        let pressure = |latest: usize, least: usize| {
            let crowded = |sample: &&Sample| sample.running > self.settings.min;
            let samples = self.samples.iter().rev().take(latest).filter(crowded);
            median(samples.map(|sample| sample.excess), least) / target
        };
        let latest = pressure(LATEST_SAMPLES, FEW_LATEST);
        if latest > SURGE {
            return Some(latest);
        }
        (self.samples.len() >= FEW_SAMPLES).then(|| pressure(SAMPLES, FEW_SAMPLES))
    }
}

/// 1 at `high`, and 2 if all is in use.
fn of_share(share: f64, high: f64) -> f64 {
    if share <= high { share / high } else { 1.0 + (share - high) / (1.0 - high) }
}

/// 0 of fewer than `least`.
fn median(values: impl Iterator<Item = f64>, least: usize) -> f64 {
    let mut values: Vec<f64> = values.collect();
    let middle = values.len() / 2;
    if values.len() < least {
        return 0.0;
    }
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
