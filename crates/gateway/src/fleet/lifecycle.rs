//! A worker's states over all its processes, decided purely: (state, event, now) to actions.
//!
//! ```text
//!  ┌─► Spawning ─► Handshaking ─► Loading ─► Ready ─► Draining ─┐
//!  │      │             │            │         │                │
//!  │      └─────────────┴─────┬──────┴─────────┘                │
//!  │                          ▼ died, timed out, froze          ▼
//!  └────── back-off ────── Exited ◄─────────────────────────────┘
//! ```
//!
//! A worker that is to be killed counts as exited at once, before its process is reaped; the next process is started
//! only after that.
//!
//! A gateway that was suspended (by a signal, a frozen container, a sleeping machine) finds all limits passed when it
//! goes on, and what its workers sent meanwhile unread. So the machine asks for a tick at short intervals, and starts
//! all limits again if one came much too late.

mod health;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use protocol::message::{Failure, FailureKind, Heartbeat, ModelInfo};

use self::health::Health;
use crate::{
    config::Workers,
    worker::{WorkerEvent, WorkerState},
};

/// What a state machine reacts to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// The latest process reported something.
    Worker(WorkerEvent),
    /// The model is unloaded, or the gateway shuts down; the worker's streams have ended.
    Drain,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Start a process.
    Spawn,
    /// Order the worker to finish and exit.
    SendDrain,
    /// End the process, after `grace` if it has not ended by itself. [`WorkerEvent::Died`] must follow.
    Kill {
        /// Time for it to end by itself.
        grace: Duration,
        /// The reason, for people.
        why: String,
    },
    /// Requests may go to it.
    Serve(ModelInfo),
    /// It failed before it ever served.
    ReportFirstFailure(Failure),
    /// No further process is started.
    Stop,
}

/// The state machine of one worker, over all its processes.
#[derive(Debug)]
pub(super) struct WorkerStateMachine {
    policy: Workers,
    drain_timeout: Duration,
    state: State,
    /// Times of recent deaths; only those within the crash-loop window matter.
    deaths: VecDeque<Instant>,
    /// Deaths since the worker last served for a whole window.
    in_a_row: u32,
    /// Whether any process has served.
    has_served: bool,
    stopping: bool,
    /// When the last event came.
    ran_at: Instant,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Spawning {
        until: Instant,
    },
    Handshaking {
        until: Instant,
    },
    Loading {
        until: Instant,
    },
    Ready {
        since: Instant,
        health: Health,
    },
    Draining {
        until: Instant,
    },
    /// Killed, not reaped.
    Dying {
        why: String,
        /// Set if the model can't be loaded: the kind of failure.
        permanent: Option<FailureKind>,
    },
    /// Reaped; `None`: for good.
    Exited {
        why: String,
        retry_at: Option<Instant>,
    },
}

/// A worker that reported that it can't load the model is exiting already.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// A worker that reported that it is drained is exiting already; it may have much memory to free.
const DRAINED_GRACE: Duration = Duration::from_secs(2);

/// Longest time between two events while a limit runs; less for short limits.
const MAX_TICK: Duration = Duration::from_secs(1);

/// Ticks within the shortest limit.
const TICKS_PER_LIMIT: u32 = 8;

/// A busy machine wakes its processes this late.
const MIN_LATE: Duration = Duration::from_millis(100);

impl WorkerStateMachine {
    /// A worker's first process is started; `now` counts as its spawn.
    pub(super) fn new(policy: Workers, drain_timeout: Duration, now: Instant) -> (Self, Vec<Action>) {
        let state = State::Spawning { until: now + policy.connect_timeout };
        let machine = Self {
            policy,
            drain_timeout,
            state,
            deaths: VecDeque::new(),
            in_a_row: 0,
            has_served: false,
            stopping: false,
            ran_at: now,
        };
        (machine, vec![Action::Spawn])
    }

    /// The state as it is shown.
    pub(super) fn shown(&self) -> WorkerState {
        match self.state {
            State::Spawning { .. } => WorkerState::Spawning,
            State::Handshaking { .. } => WorkerState::Handshaking,
            State::Loading { .. } => WorkerState::Loading,
            State::Ready { .. } => WorkerState::Ready,
            State::Draining { .. } => WorkerState::Draining,
            State::Dying { .. } | State::Exited { .. } => WorkerState::Exited,
        }
    }

    /// Why it is not serving, if it is dead.
    pub(super) fn note(&self) -> Option<&str> {
        match &self.state {
            State::Dying { why, .. } | State::Exited { why, .. } => Some(why),
            _ => None,
        }
    }

    /// When [`Event::Tick`] is due next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let limit = self.deadline()?;
        let backing_off = matches!(self.state, State::Exited { .. });
        Some(if backing_off { limit } else { limit.min(self.ran_at + self.tick_interval()) })
    }

    /// When the limit of the present state is passed, if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Spawning { until }
            | State::Handshaking { until }
            | State::Loading { until }
            | State::Draining { until } => Some(*until),
            State::Ready { health, .. } => Some(health.deadline(&self.policy)),
            State::Dying { .. } => None,
            State::Exited { retry_at, .. } => *retry_at,
        }
    }

    fn tick_interval(&self) -> Duration {
        let limit = self.policy.heartbeat_timeout.min(self.policy.step_timeout);
        MAX_TICK.min(limit / TICKS_PER_LIMIT)
    }

    /// Starts the present state's limits again if the gateway did not run for a while.
    fn notice_suspension(&mut self, now: Instant) {
        let interval = self.tick_interval();
        let late = now.saturating_duration_since(self.ran_at) > interval + interval.max(MIN_LATE);
        self.ran_at = now;
        if !late {
            return;
        }
        match &mut self.state {
            State::Spawning { until } | State::Handshaking { until } => {
                *until = now + self.policy.connect_timeout;
            }
            State::Loading { until } => *until = now + self.policy.load_timeout,
            State::Draining { until } => *until = now + self.drain_timeout,
            State::Ready { health, .. } => health.restart(now),
            // A back-off that is over stays over.
            State::Dying { .. } | State::Exited { .. } => {}
        }
    }

    /// Moves on. Events that mean nothing in the present state change nothing.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.notice_suspension(now);
        match event {
            Event::Worker(event) => self.reported(event, now),
            Event::Drain => self.drain(now),
            Event::Tick => self.tick(now),
        }
    }

    fn reported(&mut self, event: WorkerEvent, now: Instant) -> Vec<Action> {
        match event {
            WorkerEvent::Spawned => self.spawned(now),
            WorkerEvent::Joined { .. } => self.joined(now),
            WorkerEvent::Loaded(info) => self.loaded(info, now),
            WorkerEvent::LoadFailed(failure) => self.kill(failure.message, EXIT_GRACE, Some(failure.kind)),
            WorkerEvent::Alive | WorkerEvent::Verified(_) => self.alive(now),
            WorkerEvent::Heartbeat(heartbeat) => self.heartbeat(&heartbeat, now),
            WorkerEvent::Drained => self.drained(now),
            WorkerEvent::Died(why) => self.died(why, now),
        }
    }

    /// `Spawning => Handshaking`
    fn spawned(&mut self, now: Instant) -> Vec<Action> {
        if let State::Spawning { .. } = self.state {
            self.state = State::Handshaking { until: now + self.policy.connect_timeout };
        }
        vec![]
    }

    /// `Handshaking => Loading`
    fn joined(&mut self, now: Instant) -> Vec<Action> {
        if let State::Handshaking { .. } = self.state {
            self.state = State::Loading { until: now + self.policy.load_timeout };
        }
        vec![]
    }

    /// `Loading => Ready`
    fn loaded(&mut self, info: ModelInfo, now: Instant) -> Vec<Action> {
        let State::Loading { .. } = self.state else { return vec![] };
        self.state = State::Ready { since: now, health: Health::new(now) };
        self.has_served = true;
        vec![Action::Serve(info)]
    }

    fn alive(&mut self, now: Instant) -> Vec<Action> {
        if let State::Ready { health, .. } = &mut self.state {
            health.alive(now);
        }
        vec![]
    }

    fn heartbeat(&mut self, heartbeat: &Heartbeat, now: Instant) -> Vec<Action> {
        if let State::Ready { health, .. } = &mut self.state {
            health.heartbeat(heartbeat, now);
        }
        vec![]
    }

    /// All that is left is to exit.
    fn drained(&mut self, now: Instant) -> Vec<Action> {
        if let State::Draining { until } = &mut self.state {
            *until = (*until).min(now + DRAINED_GRACE);
        }
        vec![]
    }

    /// `* => Exited`
    fn died(&mut self, why: String, now: Instant) -> Vec<Action> {
        let (why, permanent, served_since) = match &self.state {
            State::Exited { .. } => return vec![],
            // It was killed for a reason, which says more than how it died.
            State::Dying { why, permanent } => (why.clone(), *permanent, None),
            State::Ready { since, .. } => (why, None, Some(*since)),
            _ => (why, None, None),
        };
        if self.stopping {
            self.state = State::Exited { why, retry_at: None };
            return vec![Action::Stop];
        }
        let retry_at = self.next_start(permanent.is_some(), served_since, now);
        let mut actions = vec![];
        if !self.has_served {
            let kind = permanent.unwrap_or(FailureKind::Internal);
            let failure = Failure { kind, param: None, message: why.clone() };
            actions.push(Action::ReportFirstFailure(failure));
        }
        self.state = State::Exited { why, retry_at: Some(retry_at) };
        actions
    }

    /// When the next process is started. The back-off doubles with every death in a row; in a crash loop it is a whole
    /// window.
    fn next_start(&mut self, permanent: bool, served_since: Option<Instant>, now: Instant) -> Instant {
        let window = self.policy.crash_loop_window;
        if served_since.is_some_and(|since| now - since >= window) {
            self.in_a_row = 0;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|death| now - *death >= window) {
            self.deaths.pop_front();
        }
        if permanent || self.deaths.len() >= self.policy.crash_loop_deaths {
            return now + window;
        }
        let (first, longest) = (*self.policy.restart_backoff.start(), *self.policy.restart_backoff.end());
        let doublings = (self.in_a_row - 1).min(20);
        now + first.saturating_mul(1 << doublings).min(longest)
    }

    /// `Ready => Draining`, `Exited => Exited for good`, others `=> Dying`
    fn drain(&mut self, now: Instant) -> Vec<Action> {
        self.stopping = true;
        match &mut self.state {
            State::Ready { .. } => {
                self.state = State::Draining { until: now + self.drain_timeout };
                vec![Action::SendDrain]
            }
            State::Exited { retry_at, .. } => {
                *retry_at = None;
                vec![Action::Stop]
            }
            State::Draining { .. } | State::Dying { .. } => vec![],
            // It has no work yet.
            State::Spawning { .. } | State::Handshaking { .. } | State::Loading { .. } => {
                self.kill("it is not needed any more".into(), Duration::ZERO, None)
            }
        }
    }

    /// `Exited => Spawning` when the back-off is over; a state that took too long `=> Dying`.
    fn tick(&mut self, now: Instant) -> Vec<Action> {
        if self.deadline().is_none_or(|at| now < at) {
            return vec![];
        }
        let policy = &self.policy;
        let why = match &self.state {
            State::Dying { .. } => return vec![],
            State::Exited { .. } => {
                self.state = State::Spawning { until: now + policy.connect_timeout };
                return vec![Action::Spawn];
            }
            State::Spawning { .. } => format!("it was not started within {:?}", policy.connect_timeout),
            State::Handshaking { .. } => format!("it did not connect within {:?}", policy.connect_timeout),
            State::Loading { .. } => format!("it did not load the model within {:?}", policy.load_timeout),
            State::Draining { .. } => format!("it did not finish within {:?}", self.drain_timeout),
            State::Ready { health, .. } => match health.verdict(policy, now) {
                Some(why) => why,
                None => return vec![],
            },
        };
        self.kill(why, Duration::ZERO, None)
    }

    fn kill(&mut self, why: String, grace: Duration, permanent: Option<FailureKind>) -> Vec<Action> {
        if let State::Dying { .. } | State::Exited { .. } = self.state {
            return vec![];
        }
        self.state = State::Dying { why: why.clone(), permanent };
        vec![Action::Kill { grace, why }]
    }
}

impl From<WorkerEvent> for Event {
    fn from(event: WorkerEvent) -> Self {
        Self::Worker(event)
    }
}

#[cfg(test)]
mod tests;
