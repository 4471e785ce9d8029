//! Restarts that an administrator asks for: the order on its way to the worker's task, and the outcome on its way back.
//!
//! ```text
//! RestartDesk ── reserve ──► RestartTurn ── order ──► RestartOrders ─► the worker's task
//!                                  outcome ◄───────────── Order::settle ◄┘
//! ```
//!
//! A worker is restarted by one at a time. Whoever does holds its turn, which comes free when the restart is over.

use std::{sync::Arc, time::Duration};

use protocol::message::Failure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Why a restarted worker does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RestartError {
    /// Its new process died before it served.
    Failed(Failure),
    /// Its model is unloaded, or the gateway shuts down.
    Stopped,
}

/// Where restarts of one worker are asked for.
#[derive(Clone, Debug)]
pub(super) struct RestartDesk {
    turns: Arc<Semaphore>,
    orders: mpsc::Sender<Order>,
}

/// What the worker's task receives. When it is dropped, all restarts end as [`RestartError::Stopped`].
pub(super) type RestartOrders = mpsc::Receiver<Order>;

/// The right to restart a worker.
#[derive(Debug)]
pub(super) struct RestartTurn {
    orders: mpsc::Sender<Order>,
    permit: OwnedSemaphorePermit,
}

/// A restart that was asked for. Dropping it ends it as [`RestartError::Stopped`].
#[derive(Debug)]
pub(super) struct Order {
    /// How long streams may go on on the present process.
    pub(super) finish: Duration,
    outcome: oneshot::Sender<Result<(), RestartError>>,
    permit: OwnedSemaphorePermit,
}

impl RestartDesk {
    /// For a worker that is not started yet.
    pub(super) fn new() -> (Self, RestartOrders) {
        // Whoever orders holds the only permit, so there is always room for one.
        let (orders, received) = mpsc::channel(1);
        (Self { turns: Arc::new(Semaphore::new(1)), orders }, received)
    }

    /// The right to restart the worker; `None` while somebody has it.
    pub(super) fn reserve(&self) -> Option<RestartTurn> {
        let permit = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        Some(RestartTurn { orders: self.orders.clone(), permit })
    }
}

impl RestartTurn {
    /// Restarts the worker, and returns when its new process serves. Dropping the future stops waiting, not the restart.
    pub(super) async fn restart(self, finish: Duration) -> Result<(), RestartError> {
        let (outcome, settled) = oneshot::channel();
        let order = Order { finish, outcome, permit: self.permit };
        // An error means that the worker's task has ended, or ends before the restart does.
        self.orders.try_send(order).map_err(|_| RestartError::Stopped)?;
        settled.await.unwrap_or(Err(RestartError::Stopped))
    }
}

impl Order {
    /// The restart is over.
    pub(super) fn settle(self, outcome: Result<(), RestartError>) {
        let Self { outcome: waiting, permit, .. } = self;
        // Before anybody can know that it is over.
        drop(permit);
        // An error means that nobody waits for it any more.
        let _ = waiting.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NONE: Duration = Duration::ZERO;

    #[tokio::test]
    async fn one_restart_at_a_time_and_its_outcome_comes_back() {
        let (desk, mut orders) = RestartDesk::new();
        let turn = desk.reserve().unwrap();
        assert!(desk.reserve().is_none(), "before it is ordered");
        let restarting = tokio::spawn(turn.restart(Duration::from_secs(3)));
        let order = orders.recv().await.unwrap();
        assert_eq!(order.finish, Duration::from_secs(3));
        assert!(desk.reserve().is_none(), "while it is under way");
        order.settle(Ok(()));
        assert_eq!(restarting.await.unwrap(), Ok(()));
        assert!(desk.reserve().is_some(), "when it is over");
    }

    #[tokio::test]
    async fn a_turn_that_is_not_used_comes_free() {
        let (desk, _orders) = RestartDesk::new();
        drop(desk.reserve().unwrap());
        assert!(desk.reserve().is_some());
    }

    #[tokio::test]
    async fn whoever_stops_waiting_does_not_stop_the_restart() {
        let (desk, mut orders) = RestartDesk::new();
        let restarting = tokio::spawn(desk.reserve().unwrap().restart(NONE));
        let order = orders.recv().await.unwrap();
        restarting.abort();
        assert!(restarting.await.is_err());
        assert!(desk.reserve().is_none());
        order.settle(Ok(()));
        assert!(desk.reserve().is_some());
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_ends_restarts() {
        let (desk, mut orders) = RestartDesk::new();
        let waiting = tokio::spawn(desk.reserve().unwrap().restart(NONE));
        let order = orders.recv().await.unwrap();
        drop(order);
        assert_eq!(waiting.await.unwrap(), Err(RestartError::Stopped));
        let queued = tokio::spawn(desk.reserve().unwrap().restart(NONE));
        while orders.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(orders);
        assert_eq!(queued.await.unwrap(), Err(RestartError::Stopped));
        assert_eq!(desk.reserve().unwrap().restart(NONE).await, Err(RestartError::Stopped));
    }
}
