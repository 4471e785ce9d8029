//! The identity and the state of a worker.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// Names a worker. Its processes come and go; an [`Incarnation`](protocol::ids::Incarnation) names one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId {
    /// The name or digest under which the model was loaded.
    pub model: Arc<str>,
    /// Its number among the model's workers, from 0.
    pub number: usize,
}

/// What a worker is doing, for people and machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Its process is being started.
    Spawning,
    /// It has to connect and to answer Hello.
    Handshaking,
    /// It loads the model.
    Loading,
    /// It serves.
    Ready,
    /// It finishes what it has, takes nothing new, and exits.
    Draining,
    /// Its process is dead; the next one is started after the back-off, if at all.
    Exited,
}

impl WorkerState {
    /// All states, in the order in which a process goes through them.
    pub const ALL: [Self; 6] =
        [Self::Spawning, Self::Handshaking, Self::Loading, Self::Ready, Self::Draining, Self::Exited];

    /// Its name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spawning => "spawning",
            Self::Handshaking => "handshaking",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Exited => "exited",
        }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.model, self.number)
    }
}
