//! A worker's states over all its processes, decided purely: (state, event, now) to actions.
//!
//! ```text
//!  ┌─► Spawning ─► Handshaking ─► Loading ─► Ready ─► Finishing ─► Draining ─┐
//!  │      │             │            │         │          │            │     │
//!  │      └─────────────┴────────────┴────┬────┴──────────┴────────────┘     │
//!  │                                      ▼ died, timed out, froze           ▼
//!  └────── back-off ────────────────── Exited ◄──────────────────────────────┘
//! ```
//!
//! A worker that is to be killed counts as exited at once, before its process is reaped; the next process is started
//! only after that.
//!
//! `Finishing` and what follows it come of a drain, after which no process is started, or of a restart, after which one
//! is started at once: a process that was told to go is no death. A restart in any other state ends the process that is
//! there, or cuts the back-off short. It is over when the next process serves or has died.
//!
//! A gateway that was suspended (by a signal, a frozen container, a sleeping machine) finds all limits passed when it
//! goes on, and what its workers sent meanwhile unread. So the machine asks for a tick at short intervals, and starts
//! all limits again if one came much too late.

mod deaths;
mod event;
mod health;
mod state;

use std::time::{Duration, Instant};

use protocol::message::{Failure, FailureKind, Heartbeat, ModelInfo};

pub(super) use self::event::{Action, Event};
use self::{
    deaths::{Death, Deaths},
    health::Health,
    state::State,
};
use super::restart::RestartError;
use crate::{
    config::Workers,
    worker::{WorkerEvent, WorkerState},
};

/// The state machine of one worker, over all its processes.
#[derive(Debug)]
pub(super) struct WorkerStateMachine {
    policy: Workers,
    drain_timeout: Duration,
    state: State,
    deaths: Deaths,
    /// Whether any process has served.
    has_served: bool,
    stopping: bool,
    restart: Option<Restart>,
    /// When the last event came.
    ran_at: Instant,
}

/// How far a restart has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    /// The old process is there still.
    Ending,
    /// The new one is on its way.
    Starting,
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
            deaths: Deaths::default(),
            has_served: false,
            stopping: false,
            restart: None,
            ran_at: now,
        };
        (machine, vec![Action::Spawn])
    }

    /// The state as it is shown.
    pub(super) fn shown(&self) -> WorkerState {
        self.state.shown()
    }

    /// Why it is not serving, if it is dead.
    pub(super) fn note(&self) -> Option<&str> {
        self.state.note()
    }

    /// Whether [`Event::Drain`] came.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the end of the present process is as it should be.
    pub(super) fn expects_end(&self) -> bool {
        self.stopping || self.restart == Some(Restart::Ending)
    }

    /// Whether [`Event::Idle`] is waited for.
    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.state, State::Finishing { .. })
    }

    /// When [`Event::Tick`] is due next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let limit = self.deadline()?;
        let backing_off = matches!(self.state, State::Exited { .. });
        Some(if backing_off { limit } else { limit.min(self.ran_at + self.tick_interval()) })
    }

    /// When the limit of the present state is passed, if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        self.state.deadline(&self.policy)
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
        if late {
            self.state.restart_limits(&self.policy, self.drain_timeout, now);
        }
    }

    /// Moves on. Events that mean nothing in the present state change nothing.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.notice_suspension(now);
        match event {
            Event::Worker(event) => self.reported(event, now),
            Event::Drain => self.drain(now),
            Event::Restart { finish } => self.begin_restart(finish, now),
            Event::Idle if self.is_finishing() => self.order_exit(now),
            Event::Idle => vec![],
            Event::Tick => self.tick(now),
        }
    }

    fn reported(&mut self, event: WorkerEvent, now: Instant) -> Vec<Action> {
        match event {
            WorkerEvent::Spawned => self.spawned(now),
            WorkerEvent::Joined { .. } => self.joined(now),
            WorkerEvent::Loaded(info) => self.loaded(info, now),
            WorkerEvent::LoadFailed(failure) => {
                self.kill(failure.message, EXIT_GRACE, Some(failure.kind), now)
            }
            WorkerEvent::Alive | WorkerEvent::Verified(_) => self.sent(None, now),
            WorkerEvent::Heartbeat(heartbeat) => self.sent(Some(&heartbeat), now),
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
        let mut actions = vec![Action::Serve(info)];
        actions.extend(self.end_restart(Ok(())));
        actions
    }

    /// A frame came.
    fn sent(&mut self, heartbeat: Option<&Heartbeat>, now: Instant) -> Vec<Action> {
        if let State::Ready { health, .. } | State::Finishing { health, .. } = &mut self.state {
            match heartbeat {
                Some(heartbeat) => health.heartbeat(heartbeat, &self.policy, now),
                None => health.alive(now),
            }
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

    /// `* => Exited`, or `=> Spawning` if it was told to go.
    fn died(&mut self, why: String, now: Instant) -> Vec<Action> {
        let (why, permanent, served) = match &self.state {
            State::Exited { .. } => return vec![],
            // It was killed for a reason, which says more than how it died.
            State::Dying { why, permanent, served } => (why.clone(), *permanent, *served),
            state => (why, None, state.served(now)),
        };
        if self.stopping {
            self.state = State::Exited { why, retry_at: None };
            return vec![Action::Stop];
        }
        if self.restart == Some(Restart::Ending) {
            return self.spawn(now);
        }
        let death = Death { at: now, served, permanent: permanent.is_some() };
        let retry_at = self.deaths.next_start(&self.policy, death);
        let kind = permanent.unwrap_or(FailureKind::Internal);
        let failure = Failure { kind, param: None, message: why.clone() };
        self.state = State::Exited { why, retry_at: Some(retry_at) };
        let mut actions = vec![];
        if !self.has_served {
            actions.push(Action::ReportFirstFailure(failure.clone()));
        }
        actions.extend(self.end_restart(Err(RestartError::Failed(failure))));
        actions
    }

    /// `* => Spawning`; the process before it is reaped.
    fn spawn(&mut self, now: Instant) -> Vec<Action> {
        self.state = State::Spawning { until: now + self.policy.connect_timeout };
        self.restart = self.restart.map(|_| Restart::Starting);
        vec![Action::Spawn]
    }

    /// `Ready => Finishing`, `Exited => Exited for good`, what has no work yet `=> Dying`
    fn drain(&mut self, now: Instant) -> Vec<Action> {
        self.stopping = true;
        let mut actions = Vec::from_iter(self.end_restart(Err(RestartError::Stopped)));
        match &mut self.state {
            State::Ready { .. } => actions.extend(self.close(None)),
            State::Finishing { until, .. } => *until = None,
            State::Draining { .. } | State::Dying { .. } => {}
            State::Exited { retry_at, .. } => {
                *retry_at = None;
                actions.push(Action::Stop);
            }
            State::Spawning { .. } | State::Handshaking { .. } | State::Loading { .. } => {
                let why = "it is not needed any more";
                actions.extend(self.kill(why.into(), Duration::ZERO, None, now));
            }
        }
        actions
    }

    /// `Ready => Finishing`, `Exited => Spawning`, what has no work yet `=> Dying`
    fn begin_restart(&mut self, finish: Duration, now: Instant) -> Vec<Action> {
        if self.stopping {
            return vec![Action::ReportRestart(Err(RestartError::Stopped))];
        }
        if self.restart.is_some() {
            return vec![];
        }
        self.restart = Some(Restart::Ending);
        match self.state {
            State::Ready { .. } => self.close(Some(now + finish)),
            State::Spawning { .. } | State::Handshaking { .. } | State::Loading { .. } => {
                self.kill("it is being restarted".into(), Duration::ZERO, None, now)
            }
            State::Exited { .. } => self.spawn(now),
            // The next one is started once it is reaped.
            State::Finishing { .. } | State::Draining { .. } | State::Dying { .. } => vec![],
        }
    }

    /// The restart is over, if there is one.
    fn end_restart(&mut self, outcome: Result<(), RestartError>) -> Option<Action> {
        self.restart.take().map(|_| Action::ReportRestart(outcome))
    }

    /// `Ready => Finishing`
    fn close(&mut self, until: Option<Instant>) -> Vec<Action> {
        let State::Ready { since, health } = self.state else { return vec![] };
        self.state = State::Finishing { since, health, until };
        vec![Action::Close]
    }

    /// `Finishing => Draining`
    fn order_exit(&mut self, now: Instant) -> Vec<Action> {
        self.state = State::Draining { until: now + self.drain_timeout };
        vec![Action::SendDrain]
    }

    /// `Exited => Spawning` when the back-off is over; a state that took too long `=> Dying`, or `=> Draining`.
    fn tick(&mut self, now: Instant) -> Vec<Action> {
        if self.deadline().is_none_or(|at| now < at) {
            return vec![];
        }
        if let Some(why) = self.state.verdict(&self.policy, self.drain_timeout, now) {
            return self.kill(why, Duration::ZERO, None, now);
        }
        match self.state {
            State::Exited { .. } => self.spawn(now),
            State::Finishing { until: Some(until), .. } if now >= until => {
                [vec![Action::Release], self.order_exit(now)].concat()
            }
            _ => vec![],
        }
    }

    fn kill(
        &mut self,
        why: String,
        grace: Duration,
        permanent: Option<FailureKind>,
        now: Instant,
    ) -> Vec<Action> {
        if let State::Dying { .. } | State::Exited { .. } = self.state {
            return vec![];
        }
        self.state = State::Dying { why: why.clone(), permanent, served: self.state.served(now) };
        vec![Action::Kill { grace, why }]
    }
}

#[cfg(test)]
mod tests;
