//! What a worker process and its link report to the task that supervises them.

use protocol::{
    ids::Incarnation,
    message::{Failure, Heartbeat, ModelInfo, Verified},
};
use tokio::sync::mpsc;

/// Something that happened to a worker process.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEvent {
    /// It runs.
    Spawned,
    /// Both sides hold the segment.
    Joined {
        /// The worker's process id, as it reported it.
        pid: u32,
    },
    /// It reported that the model is loaded.
    Loaded(ModelInfo),
    /// It reported that the model can't be loaded.
    LoadFailed(Failure),
    /// A frame came that is not a heartbeat.
    Alive,
    /// A heartbeat came.
    Heartbeat(Heartbeat),
    /// It read the whole stored model while it served, and reported what it found.
    Verified(Result<Verified, Failure>),
    /// It reported that it has finished what it had.
    Drained,
    /// It is gone and reaped, or could not be started. Nothing follows.
    Died {
        /// How, for people.
        why: String,
        /// Somebody else ended it: a person, or a system that ran out of memory.
        by_others: bool,
    },
}

/// The sender of one process's events.
#[derive(Clone, Debug)]
pub struct EventSender {
    incarnation: Incarnation,
    events: mpsc::Sender<(Incarnation, WorkerEvent)>,
}

impl EventSender {
    /// For the process `incarnation`, whose events carry this number: an earlier one's may still be on their way.
    pub fn new(incarnation: Incarnation, events: mpsc::Sender<(Incarnation, WorkerEvent)>) -> Self {
        Self { incarnation, events }
    }

    /// Sends an event, and waits while the receiver is behind.
    pub async fn send(&self, event: WorkerEvent) {
        // The receiver is gone only when the gateway is.
        let _ = self.events.send((self.incarnation, event)).await;
    }
}
