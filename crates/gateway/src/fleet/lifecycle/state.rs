//! The states of a worker, and the limits of time in them.

use std::time::{Duration, Instant};

use protocol::message::FailureKind;

use super::health::Health;
use crate::{config::Workers, worker::WorkerState};

/// What a worker's latest process is doing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
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
    /// Closed: its streams go on, and it gets no others.
    Finishing {
        since: Instant,
        health: Health,
        /// When they are released; `None`: they have all the time that they need. It passes while the gateway is
        /// suspended, too: streams that are released are not lost.
        until: Option<Instant>,
    },
    /// It was told to exit.
    Draining {
        until: Instant,
    },
    /// Killed, not reaped.
    Dying {
        why: String,
        /// Set if the model can't be loaded: the kind of failure.
        permanent: Option<FailureKind>,
        /// For how long it had served, if it had.
        served: Option<Duration>,
    },
    /// Reaped; `None`: for good.
    Exited {
        why: String,
        retry_at: Option<Instant>,
    },
}

impl State {
    /// As it is shown.
    pub(super) fn shown(&self) -> WorkerState {
        match self {
            Self::Spawning { .. } => WorkerState::Spawning,
            Self::Handshaking { .. } => WorkerState::Handshaking,
            Self::Loading { .. } => WorkerState::Loading,
            Self::Ready { .. } => WorkerState::Ready,
            Self::Finishing { .. } | Self::Draining { .. } => WorkerState::Draining,
            Self::Dying { .. } | Self::Exited { .. } => WorkerState::Exited,
        }
    }

    /// Why it is not serving, if it is dead.
    pub(super) fn note(&self) -> Option<&str> {
        match self {
            Self::Dying { why, .. } | Self::Exited { why, .. } => Some(why),
            _ => None,
        }
    }

    /// For how long it has served; `None`: it does not.
    pub(super) fn served(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Ready { since, .. } | Self::Finishing { since, .. } => Some(now - *since),
            _ => None,
        }
    }

    /// When its limit is passed, if nothing happens.
    pub(super) fn deadline(&self, policy: &Workers) -> Option<Instant> {
        match self {
            Self::Spawning { until }
            | Self::Handshaking { until }
            | Self::Loading { until }
            | Self::Draining { until } => Some(*until),
            Self::Ready { health, .. } => Some(health.deadline(policy)),
            Self::Finishing { health, until, .. } => {
                let frozen = health.deadline(policy);
                Some(until.map_or(frozen, |until| until.min(frozen)))
            }
            Self::Dying { .. } => None,
            Self::Exited { retry_at, .. } => *retry_at,
        }
    }

    /// Starts its limits again.
    pub(super) fn restart_limits(&mut self, policy: &Workers, drain_timeout: Duration, now: Instant) {
        match self {
            Self::Spawning { until } | Self::Handshaking { until } => {
                *until = now + policy.connect_timeout;
            }
            Self::Loading { until } => *until = now + policy.load_timeout,
            Self::Draining { until } => *until = now + drain_timeout,
            Self::Ready { health, .. } | Self::Finishing { health, .. } => health.restart(now),
            // A back-off that is over stays over.
            Self::Dying { .. } | Self::Exited { .. } => {}
        }
    }

    /// Why a process whose limit is passed is to be ended, if it is.
    pub(super) fn verdict(&self, policy: &Workers, drain_timeout: Duration, now: Instant) -> Option<String> {
        match self {
            Self::Spawning { .. } => Some(format!("it was not started within {:?}", policy.connect_timeout)),
            Self::Handshaking { .. } => {
                Some(format!("it did not connect within {:?}", policy.connect_timeout))
            }
            Self::Loading { .. } => {
                Some(format!("it did not load the model within {:?}", policy.load_timeout))
            }
            Self::Draining { .. } => Some(format!("it did not finish within {drain_timeout:?}")),
            Self::Ready { health, .. } | Self::Finishing { health, .. } => health.verdict(policy, now),
            Self::Dying { .. } | Self::Exited { .. } => None,
        }
    }
}
