//! Which worker, and what it is doing.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// Which worker of which model.
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
    /// It is dead; the next life comes after the back-off, if one comes.
    Exited,
}

impl WorkerState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Spawning, Self::Handshaking, Self::Loading, Self::Ready, Self::Draining, Self::Exited];

    /// As it is shown.
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
