//! Between those who submit and the one task that ships: a [`Batcher`] behind a lock, and a notification.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use protocol::{codec::CodecError, ids::RequestId, message::OperationKind};
use tokio::sync::Notify;

use super::batcher::{Batcher, NewOperation, Next, Queued, Taken};
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

    /// Queues a submission, and wakes the link's task if it has to look. Never blocks; see [`Batcher`] for the bound.
    pub fn push(&self, queued: Queued) {
        if self.batcher().push(queued, now) {
            self.pushed.notify_one();
        }
    }

    /// [`Outbox::push`] of an operation. An `urgent` one is not held for others to share its frame.
    ///
    /// # Errors
    /// It is too large to be sent.
    pub fn push_operation(
        &self,
        id: RequestId,
        kind: &OperationKind,
        urgent: bool,
    ) -> Result<(), CodecError> {
        let operation = NewOperation::new(id, kind)?;
        if self.batcher().push_operation(operation, urgent, now)? {
            self.pushed.notify_one();
        }
        Ok(())
    }

    /// What is queued is not held any longer.
    pub fn hurry(&self) {
        if self.batcher().hurry() {
            self.pushed.notify_one();
        }
    }

    /// Moves what goes into the next batch to `taken`: nothing if nothing is queued.
    pub fn take_batch(&self, now: Instant, taken: &mut Taken) {
        self.batcher().take(now, taken);
    }

    /// The streams whose requests are queued.
    pub fn requests(&self) -> HashSet<RequestId> {
        self.batcher().requests()
    }

    /// What to do with what is queued, at `now`.
    pub fn next(&self, now: Instant) -> Next {
        self.batcher().next(now)
    }

    /// Returns once the link's task has to look since it last returned.
    pub async fn pushed(&self) {
        self.pushed.notified().await;
    }

    fn batcher(&self) -> MutexGuard<'_, Batcher> {
        self.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the clock of the link's timer, which a test may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
