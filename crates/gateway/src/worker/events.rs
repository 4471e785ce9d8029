//! What a worker process tells the task that supervises it.

use protocol::{
    ids::Incarnation,
    message::{Failure, Heartbeat, ModelInfo, Verified},
};
use tokio::sync::mpsc;

use super::link::Link;

/// Something that happened to the worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its process runs.
    Spawned,
    /// Both sides hold the segment.
    Joined,
    /// It reported that the model is loaded.
    Loaded(ModelInfo),
    /// It reported that the model can't be loaded.
    LoadFailed(Failure),
    /// A frame came that is not a heartbeat.
    Alive,
    /// A heartbeat came.
    Heartbeat(Heartbeat),
    /// Its process is gone and reaped, or never came to be.
    Died(String),
    /// It reported that it has finished what it had.
    Drained,
    /// The model is unloaded, or the gateway goes down; its streams have ended.
    Drain,
    /// Time has passed.
    Tick,
}

/// ProcessEvent of a life. Those of an earlier one are ignored.
#[derive(Debug)]
pub struct ProcessEvent {
    /// Whose.
    pub incarnation: Incarnation,
    /// What happened.
    pub what: EventKind,
}

/// What happened in a life.
#[derive(Debug)]
pub enum EventKind {
    /// As it is for the state machine.
    Event(Event),
    /// [`Event::Joined`], with what the event itself can't carry.
    Joined(Link),
    /// It has verified the stored model, while it serves.
    Verified(Result<Verified, Failure>),
}

/// A life's voice.
#[derive(Clone, Debug)]
pub struct EventSender {
    incarnation: Incarnation,
    news: mpsc::Sender<ProcessEvent>,
}

impl EventSender {
    /// Of the life `incarnation`.
    pub fn new(incarnation: Incarnation, news: mpsc::Sender<ProcessEvent>) -> Self {
        Self { incarnation, news }
    }

    /// Tells an event, and waits while the listener is behind.
    pub async fn tell(&self, event: Event) {
        self.send(EventKind::Event(event)).await;
    }

    /// Tells that both sides hold the segment.
    pub async fn joined(&self, link: Link) {
        self.send(EventKind::Joined(link)).await;
    }

    /// Tells the outcome of a verification.
    pub async fn verified(&self, outcome: Result<Verified, Failure>) {
        self.send(EventKind::Verified(outcome)).await;
    }

    async fn send(&self, what: EventKind) {
        // The receiver is gone only when the gateway is.
        let _ = self.news.send(ProcessEvent { incarnation: self.incarnation, what }).await;
    }
}
