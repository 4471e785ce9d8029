//! What goes into the state machine and comes out of it.

use std::time::Duration;

use protocol::message::{Failure, ModelInfo};

use crate::{fleet::restart::RestartError, worker::WorkerEvent};

/// What a state machine reacts to.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::fleet) enum Event {
    /// The latest process reported something.
    Worker(WorkerEvent),
    /// The model is unloaded, or the gateway shuts down.
    Drain,
    /// An administrator wants another process.
    Restart {
        /// How long streams may go on on the present one.
        finish: Duration,
    },
    /// The worker was closed, and its streams have ended.
    Idle,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::fleet) enum Action {
    /// Start a process.
    Spawn,
    /// The worker gets no more streams. [`Event::Idle`] must follow when those that it has have ended.
    Close,
    /// End the streams that it still has, so that they go on elsewhere.
    Release,
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
    /// What became of the restart that was asked for.
    ReportRestart(Result<(), RestartError>),
    /// No further process is started.
    Stop,
}

impl From<WorkerEvent> for Event {
    fn from(event: WorkerEvent) -> Self {
        Self::Worker(event)
    }
}
