//! What a life tells the task that cares for its worker.

use protocol::{
    ids::Incarnation,
    message::{Failure, Verified},
};
use tokio::sync::mpsc;

use super::state::Event;
use crate::link::Link;

/// News of a life. Those of an earlier one are ignored.
#[derive(Debug)]
pub struct News {
    /// Whose.
    pub incarnation: Incarnation,
    /// What happened.
    pub what: What,
}

/// What happened in a life.
#[derive(Debug)]
pub enum What {
    /// As it is for the state machine.
    Event(Event),
    /// [`Event::Joined`], with what the event itself can't carry.
    Joined(Link),
    /// It has verified the stored model, while it serves.
    Verified(Result<Verified, Failure>),
}

/// A life's voice.
#[derive(Clone, Debug)]
pub struct Reporter {
    incarnation: Incarnation,
    news: mpsc::Sender<News>,
}

impl Reporter {
    /// Of the life `incarnation`.
    pub fn new(incarnation: Incarnation, news: mpsc::Sender<News>) -> Self {
        Self { incarnation, news }
    }

    /// Tells an event, and waits while the listener is behind.
    pub async fn tell(&self, event: Event) {
        self.send(What::Event(event)).await;
    }

    /// Tells that both sides hold the segment.
    pub async fn joined(&self, link: Link) {
        self.send(What::Joined(link)).await;
    }

    /// Tells the outcome of a verification.
    pub async fn verified(&self, outcome: Result<Verified, Failure>) {
        self.send(What::Verified(outcome)).await;
    }

    async fn send(&self, what: What) {
        // The receiver is gone only when the gateway is.
        let _ = self.news.send(News { incarnation: self.incarnation, what }).await;
    }
}
