//! The places of one model: who runs, who waits, and how many may run. Pure: [`super::admission`] acts on it.
//!
//! ```text
//! arrive ─┬─ a place is free ─► Started ─► first_token ─► finish ──► next
//!         ├─ else ────────────► Waits ───► next ─► Started            │
//!         │                       └─► leave                           ▼
//!         └─ queue full ──────► Refused                    the next one's Started
//! ```

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{
    caller::Caller,
    limit::{AdaptiveLimit, Cause, FirstToken, LimitSettings, Load, WorkersLoad},
    pace::Pace,
    priority::Priority,
    queue::{Bound, Bounds, FairQueue, Pushed, Ticket},
};

/// The places of one model. `T` is whoever waits for one.
#[derive(Debug)]
pub(super) struct Gate<T> {
    queue: FairQueue<Waits<T>>,
    limit: AdaptiveLimit,
    pace: Pace,
    running: usize,
    /// Those of them that have no token yet.
    unstarted: usize,
}

/// What a request asks of a gate.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) caller: Caller,
    pub(super) priority: Priority,
    /// Its estimated work, in tokens.
    pub(super) tokens: u64,
    /// Streams that it is. They get their places together.
    pub(super) places: usize,
}

/// Who waits for places.
#[derive(Debug)]
struct Waits<T> {
    waiter: T,
    places: usize,
}

/// Places for somebody who has waited for them.
#[derive(Debug)]
pub(super) struct Grant<T> {
    pub(super) waiter: T,
    pub(super) started: Started,
    pub(super) places: usize,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Arrived<T> {
    /// It runs.
    Runs(Started),
    /// It waits. The others had to make room for it within a bound, and wait no longer.
    Waits(Ticket, Vec<(T, Bound)>),
    /// It can't wait either.
    Refused(Bound),
}

/// Places that were given away to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Started {
    /// When.
    pub(super) at: Instant,
    /// Streams that run now, with this one and those that come with it.
    pub(super) running: usize,
}

/// How a model's places and its queue are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Streams that may run at the moment.
    pub limit: usize,
    /// Streams that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Work of those that wait, in tokens.
    pub waiting_tokens: u64,
    /// Work that may wait, in tokens.
    pub max_waiting_tokens: u64,
}

impl<T> Gate<T> {
    pub(super) fn new(bounds: Bounds, limit: LimitSettings, now: Instant) -> Self {
        Self {
            queue: FairQueue::new(bounds),
            limit: AdaptiveLimit::new(limit, now),
            pace: Pace::new(),
            running: 0,
            unstarted: 0,
        }
    }

    /// A request comes. `waiter` is who waits for it, if it has to.
    pub(super) fn arrive(&mut self, arrival: Arrival, waiter: T, now: Instant) -> Arrived<T> {
        let Arrival { caller, priority, tokens, places } = arrival;
        if self.queue.waiting() == 0 && self.has_room(places) {
            self.queue.pass(&caller, tokens);
            return Arrived::Runs(self.start(places, now));
        }
        match self.queue.push(caller, priority, tokens, Waits { waiter, places }) {
            Pushed::Waits(ticket, evicted) => {
                let waiter = |(waits, bound): (Waits<T>, Bound)| (waits.waiter, bound);
                Arrived::Waits(ticket, evicted.into_iter().map(waiter).collect())
            }
            Pushed::Full(bound) => Arrived::Refused(bound),
        }
    }

    /// Who gets a place next, if one is free. To be asked again until nobody does, after everything that may free one.
    pub(super) fn next(&mut self, now: Instant) -> Option<Grant<T>> {
        // Nobody overtakes one who needs several, or it might wait for ever.
        let places = self.queue.peek()?.places;
        if !self.has_room(places) {
            return None;
        }
        let Waits { waiter, places } = self.queue.pop()?;
        Some(Grant { waiter, started: self.start(places, now), places })
    }

    /// Somebody who waited does no longer. `None` if it had a place already, or had to make room.
    pub(super) fn leave(&mut self, ticket: &Ticket) -> Option<T> {
        self.queue.remove(ticket).map(|waits| waits.waiter)
    }

    /// Everybody who waits, to be turned away.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.queue.drain().into_iter().map(|waits| waits.waiter).collect()
    }

    /// A stream had its first token, for which `computed_tokens` of its prompt were computed. To be called once for each at
    /// most.
    pub(super) fn first_token(&mut self, started: Started, computed_tokens: u32, now: Instant) {
        self.unstarted = self.unstarted.saturating_sub(1);
        let admitted = started.at;
        let running = started.running.max(self.running);
        let took = now.saturating_duration_since(admitted);
        self.limit.first_token(&FirstToken { admitted, running, took, computed_tokens });
    }

    /// A stream ended, and had its first token or not.
    pub(super) fn finish(&mut self, had_token: bool, now: Instant) {
        self.pace.freed(now);
        self.give_back(had_token, now);
    }

    /// Places were given to somebody who had gone.
    pub(super) fn withdraw(&mut self, places: usize, now: Instant) {
        (0..places).for_each(|_| self.give_back(false, now));
    }

    /// The load is judged. Says why, if the limit has sunk.
    pub(super) fn tick(&mut self, workers: WorkersLoad, now: Instant) -> Option<Cause> {
        let Self { running, unstarted, .. } = *self;
        let load = Load { running, unstarted, waiting: self.queue.waiting(), workers };
        let cause = self.limit.tick(&load, now);
        self.watch_pace(now);
        cause
    }

    /// When somebody who is turned away now should come back.
    pub(super) fn promise(&mut self, now: Instant) -> Duration {
        self.pace.promise(now)
    }

    /// Changes what may run and wait.
    pub(super) fn set_settings(&mut self, bounds: Bounds, limit: LimitSettings, now: Instant) {
        self.queue.set_bounds(bounds);
        self.limit.set_settings(limit, now);
        self.watch_pace(now);
    }

    /// Nobody runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.queue.waiting() == 0
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        let Bounds { requests, tokens } = self.queue.bounds();
        Occupancy {
            limit: self.limit.get(),
            running: self.running,
            waiting: self.queue.waiting(),
            max_waiting: requests,
            waiting_tokens: self.queue.tokens(),
            max_waiting_tokens: tokens,
        }
    }

    /// Whether so many places are free. The limit may have sunk below what a request needs: it runs alone then.
    fn has_room(&self, places: usize) -> bool {
        self.running + places <= self.limit.get() || (places > 1 && self.running == 0)
    }

    fn start(&mut self, places: usize, now: Instant) -> Started {
        self.running += places;
        self.unstarted += places;
        self.watch_pace(now);
        Started { at: now, running: self.running }
    }

    fn give_back(&mut self, had_token: bool, now: Instant) {
        self.running = self.running.saturating_sub(1);
        if !had_token {
            self.unstarted = self.unstarted.saturating_sub(1);
        }
        // Not yet, if somebody waits for it: places are scarce then.
        if self.queue.waiting() == 0 {
            self.watch_pace(now);
        }
    }

    fn watch_pace(&mut self, now: Instant) {
        self.pace.set_full(self.running >= self.limit.get(), now);
    }
}

#[cfg(test)]
mod tests;
