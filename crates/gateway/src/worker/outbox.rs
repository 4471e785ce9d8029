//! Between those who submit and the one task that ships: a [`Batcher`] behind a lock, and a notification.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use protocol::ids::RequestId;
use tokio::sync::Notify;

use super::batcher::{Batcher, Next, Queued};
use crate::config::BatchQueue;

/// Submissions on their way to the link's task.
#[derive(Debug)]
pub struct Outbox {
    batcher: Mutex<Batcher>,
    pushed: Notify,
}

impl Outbox {
    /// Empty.
    pub fn new(settings: BatchQueue) -> Self {
        Self { batcher: Mutex::new(Batcher::new(settings)), pushed: Notify::new() }
    }

    /// Queues a submission and wakes the link's task. Never blocks; see [`Batcher`] for the bound.
    pub fn push(&self, queued: Queued) {
        // By the clock of the link's timer, which a test may pause.
        self.batcher().push(queued, tokio::time::Instant::now().into_std());
        self.pushed.notify_one();
    }

    /// What goes into the next batch: nothing if nothing is queued.
    pub fn take(&self) -> Vec<Queued> {
        self.batcher().take()
    }

    /// The streams whose requests are queued.
    pub fn requests(&self) -> HashSet<RequestId> {
        self.batcher().requests()
    }

    /// What to do with what is queued, at `now`.
    pub fn next(&self, now: Instant) -> Next {
        self.batcher().next(now)
    }

    /// Returns once something was pushed since it last returned.
    pub async fn pushed(&self) {
        self.pushed.notified().await;
    }

    fn batcher(&self) -> MutexGuard<'_, Batcher> {
        self.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
