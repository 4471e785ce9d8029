//! Stage *admit*: a [`Permit`] for a stream, or a [`Rejection`] before any response header.
//!
//! ```text
//!            a permit is free
//! request ─────────────────────────────────────► Permit ──drop──► the longest waiting gets it
//!    │ none free        ▲ in order of arrival
//!    └──► wait queue ───┘
//!    │        └─ waited too long ─► Rejection::WaitedTooLong
//!    └─ queue full ───────────────► Rejection::QueueFull
//! ```
//!
//! What has a permit is never dropped; only what still waits can be turned away.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, timeout},
};

use crate::{config::StreamRegistry, metrics::Metrics};

/// Decides which requests may become streams. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: StreamRegistry,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    /// Streams that may run at once; within the settings' minimum and maximum.
    limit: usize,
    /// Permits in use beyond a lowered limit; as many are not given back when they are dropped.
    debt: usize,
    /// Requests in the wait queue.
    waiting: usize,
}

/// The right to one stream. Held by the response's body; dropping it lets the next one in.
#[derive(Debug)]
pub struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    inner: Arc<Inner>,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// As many requests wait as may wait.
    #[error("the server is at its limit and {waiting} requests wait already; try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// No stream ended in time.
    #[error("the server is at its limit and no place came free within {} s; try again later", waited.as_secs_f32())]
    WaitedTooLong {
        /// For how long the request waited.
        waited: Duration,
    },
    /// The gateway is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Rejection {
    /// Value of the metric's label.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue_full",
            Self::WaitedTooLong { .. } => "waited_too_long",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

impl Admission {
    /// Starts with the highest limit.
    pub fn new(settings: StreamRegistry, metrics: Arc<Metrics>) -> Self {
        let limit = settings.max_streams;
        metrics.admit_limit.set(limit as i64);
        let state = Mutex::new(State { limit, debt: 0, waiting: 0 });
        let permits = Arc::new(Semaphore::new(limit));
        Self { inner: Arc::new(Inner { settings, permits, state, metrics }) }
    }

    /// A permit at once, or after waiting in order of arrival.
    pub async fn admit(&self) -> Result<Permit, Rejection> {
        let arrived = Instant::now();
        let admitted = match Arc::clone(&self.inner.permits).try_acquire_owned() {
            Ok(permit) => Ok(permit),
            Err(TryAcquireError::Closed) => Err(Rejection::ShuttingDown),
            Err(TryAcquireError::NoPermits) => self.wait().await,
        };
        let metrics = &self.inner.metrics;
        match admitted {
            Ok(permit) => {
                metrics.queue_time.observe(arrived.elapsed().as_secs_f64());
                metrics.streams_open.inc();
                Ok(Permit { permit: Some(permit), inner: Arc::clone(&self.inner) })
            }
            Err(rejection) => {
                metrics.count_rejection(rejection.reason());
                Err(rejection)
            }
        }
    }

    async fn wait(&self) -> Result<OwnedSemaphorePermit, Rejection> {
        let _place = self.inner.queue_up()?;
        let longest = self.inner.settings.wait_timeout;
        match timeout(longest, Arc::clone(&self.inner.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(Rejection::ShuttingDown),
            Err(_elapsed) => Err(Rejection::WaitedTooLong { waited: longest }),
        }
    }

    /// Moves the limit, held within the configured range, and returns what it became. Running
    /// streams go on: a lower limit takes effect as they end.
    pub fn set_limit(&self, limit: usize) -> usize {
        let settings = &self.inner.settings;
        let limit = limit.clamp(settings.min_streams, settings.max_streams);
        let mut state = self.inner.state();
        if limit > state.limit {
            let raise = limit - state.limit;
            let forgiven = raise.min(state.debt);
            state.debt -= forgiven;
            self.inner.permits.add_permits(raise - forgiven);
        } else {
            let cut = state.limit - limit;
            state.debt += cut - self.inner.permits.forget_permits(cut);
        }
        state.limit = limit;
        self.inner.metrics.admit_limit.set(limit as i64);
        limit
    }

    /// Streams that may run at once.
    pub fn limit(&self) -> usize {
        self.inner.state().limit
    }

    /// Turns away whoever waits or comes; permits given stay good.
    pub fn close(&self) {
        self.inner.permits.close();
    }

    /// Whether [`Admission::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.inner.permits.is_closed()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The numbers are right after every statement: a panic elsewhere can't have broken them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue_up(self: &Arc<Self>) -> Result<Place, Rejection> {
        let mut state = self.state();
        if state.waiting >= self.settings.max_waiting {
            return Err(Rejection::QueueFull { waiting: state.waiting });
        }
        state.waiting += 1;
        self.metrics.admit_queue_length.set(state.waiting as i64);
        Ok(Place(Arc::clone(self)))
    }
}

/// A place in the wait queue; given up on drop, also when the client has gone.
struct Place(Arc<Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting -= 1;
        self.0.metrics.admit_queue_length.set(state.waiting as i64);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inner.metrics.streams_open.dec();
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.inner.state();
        if state.debt > 0 {
            state.debt -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::{FutureExt, poll};
    use std::pin::pin;

    use super::*;

    fn admission(max_streams: usize, max_waiting: usize) -> Admission {
        let settings = StreamRegistry {
            min_streams: 1,
            max_streams,
            max_waiting,
            wait_timeout: Duration::from_secs(30),
            credit_chunks: 64,
        };
        Admission::new(settings, Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_get_permits_in_order_of_arrival() {
        let admission = admission(1, 2);
        let held = admission.admit().await.unwrap();
        let (mut first, mut second) = (pin!(admission.admit()), pin!(admission.admit()));
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_pending());
        drop(held);
        assert!(poll!(&mut second).is_pending());
        let first = first.now_or_never().unwrap().unwrap();
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(second.now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_rejects_at_once_and_a_leaver_makes_room() {
        let admission = admission(1, 1);
        let _held = admission.admit().await.unwrap();
        let mut waiter = Box::pin(admission.admit());
        assert!(poll!(&mut waiter).is_pending());
        let rejection = admission.admit().now_or_never().unwrap().unwrap_err();
        assert_eq!(rejection, Rejection::QueueFull { waiting: 1 });
        drop(waiter);
        assert!(admission.admit().now_or_never().is_none(), "the leaver's place was not given up");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline() {
        let admission = admission(1, 1);
        let _held = admission.admit().await.unwrap();
        let began = Instant::now();
        let rejection = admission.admit().await.unwrap_err();
        assert_eq!(rejection, Rejection::WaitedTooLong { waited: Duration::from_secs(30) });
        assert_eq!(began.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_limit_takes_effect_as_streams_end() {
        let admission = admission(3, 0);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(admission.admit().await.unwrap());
        }
        assert_eq!(admission.set_limit(1), 1);
        held.truncate(1);
        assert!(admission.admit().await.is_err(), "two of three ended, and the limit is one");
        held.clear();
        held.push(admission.admit().await.unwrap());
        assert!(admission.admit().await.is_err());
        assert_eq!(admission.set_limit(99), 3, "the limit stays within its range");
        held.push(admission.admit().await.unwrap());
        held.push(admission.admit().await.unwrap());
        assert!(admission.admit().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn raising_the_limit_forgives_debt_before_it_adds_permits() {
        let admission = admission(2, 0);
        let _held = [admission.admit().await.unwrap(), admission.admit().await.unwrap()];
        admission.set_limit(1);
        admission.set_limit(2);
        assert!(admission.admit().await.is_err(), "two streams run and the limit is two");
    }

    #[tokio::test(start_paused = true)]
    async fn closing_turns_away_waiters_and_newcomers() {
        let admission = admission(1, 1);
        let _held = admission.admit().await.unwrap();
        let mut waiter = pin!(admission.admit());
        assert!(poll!(&mut waiter).is_pending());
        admission.close();
        assert_eq!(waiter.await.unwrap_err(), Rejection::ShuttingDown);
        assert_eq!(admission.admit().await.unwrap_err(), Rejection::ShuttingDown);
    }
}
