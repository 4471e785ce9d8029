//! A request that waits for a permit.

use std::{sync::Arc, time::Instant};

use tokio::{sync::oneshot, time::timeout_at};

use super::{Inner, Permit, Rejection, now};
use crate::serve::queue::Ticket;

/// A place in the wait queue; given up on drop, also when the client has gone.
pub(super) struct Waiting {
    pub(super) inner: Arc<Inner>,
    pub(super) model: Arc<str>,
    pub(super) ticket: Ticket,
    pub(super) permit: oneshot::Receiver<Result<Permit, Rejection>>,
}

impl Waiting {
    /// Until a permit comes, or it is too late for one.
    pub(super) async fn wait(
        mut self,
        arrived: Instant,
        deadline: Option<Instant>,
    ) -> Result<Permit, Rejection> {
        let longest = self.inner.table().settings.wait_timeout;
        let until = deadline.map_or(arrived + longest, |deadline| deadline.min(arrived + longest));
        match timeout_at(until.into(), &mut self.permit).await {
            // It came in the same moment, too late to be of use.
            Ok(Ok(Ok(_permit))) if deadline.is_some_and(|at| at <= now()) => Err(Rejection::DeadlinePassed),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_closed)) => Err(Rejection::ShuttingDown),
            Err(_elapsed) if deadline.is_some_and(|at| at <= until) => Err(Rejection::DeadlinePassed),
            Err(_elapsed) => Err(self.inner.waited_too_long(&self.model, longest)),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut table = self.inner.table();
        let left = table.gates.get_mut(&self.model).and_then(|gate| gate.leave(&self.ticket));
        self.inner.publish(&table);
        drop(table);
        drop(left);
    }
}
