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
//! What has a permit is never dropped; only what still waits can be turned away. Each model has permits and a queue
//! for itself: it has workers for itself, and clients of one must not keep those of another waiting.

mod metrics;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, timeout},
};

pub use self::metrics::AdmissionMetrics;
use crate::config::StreamRegistry;

/// Decides which requests may become streams. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gates: Mutex<Gates>,
    metrics: AdmissionMetrics,
}

#[derive(Debug)]
struct Gates {
    /// For gates that are made from now on.
    settings: StreamRegistry,
    /// By model.
    open: HashMap<String, Arc<Gate>>,
    closed: bool,
}

/// The permits of one model.
#[derive(Debug)]
struct Gate {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    metrics: AdmissionMetrics,
}

#[derive(Debug)]
struct State {
    settings: StreamRegistry,
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
    gate: Arc<Gate>,
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
    pub fn new(settings: StreamRegistry, metrics: AdmissionMetrics) -> Self {
        metrics.limit.set(settings.max_streams as i64);
        let gates = Mutex::new(Gates { settings, open: HashMap::new(), closed: false });
        Self { inner: Arc::new(Inner { gates, metrics }) }
    }

    /// Other settings from now on. What runs and what waits already is not turned away: a lower limit takes effect as
    /// streams end.
    pub fn reconfigure(&self, settings: StreamRegistry) {
        let mut gates = self.gates();
        if gates.settings == settings {
            return;
        }
        gates.settings = settings;
        gates.open.values().for_each(|gate| gate.reconfigure(settings));
        self.inner.metrics.limit.set(settings.max_streams as i64);
    }

    /// A permit for a stream of `model` at once, or after waiting in order of arrival.
    pub async fn admit(&self, model: &str) -> Result<Permit, Rejection> {
        let arrived = Instant::now();
        let metrics = &self.inner.metrics;
        let admitted = match self.gate(model) {
            Some(gate) => gate.admit().await,
            None => Err(Rejection::ShuttingDown),
        };
        match &admitted {
            Ok(_) => metrics.queue_time.observe(arrived.elapsed().as_secs_f64()),
            Err(rejection) => metrics.count_rejection(rejection.reason()),
        }
        admitted
    }

    /// Moves the model's limit, held within the configured range, and returns what it became. Running streams go on: a
    /// lower limit takes effect as they end. No effect once all is closed.
    pub fn set_limit(&self, model: &str, limit: usize) -> usize {
        self.gate(model).map_or(0, |gate| gate.set_limit(limit))
    }

    /// Turns away waiting and new requests; permits already given stay valid.
    pub fn close(&self) {
        let mut gates = self.gates();
        gates.closed = true;
        gates.open.values().for_each(|gate| gate.permits.close());
    }

    /// What is measured.
    pub fn metrics(&self) -> &AdmissionMetrics {
        &self.inner.metrics
    }

    /// Whether [`Admission::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.gates().closed
    }

    /// The model's gate; `None` once all are closed.
    fn gate(&self, model: &str) -> Option<Arc<Gate>> {
        let mut gates = self.gates();
        if gates.closed {
            return None;
        }
        if let Some(gate) = gates.open.get(model) {
            return Some(Arc::clone(gate));
        }
        // Models come and go: gates at which nobody is are made again when they are needed.
        gates.open.retain(|_, gate| Arc::strong_count(gate) > 1);
        let gate = Arc::new(Gate::new(gates.settings, self.inner.metrics.clone()));
        gates.open.insert(model.to_owned(), Arc::clone(&gate));
        Some(gate)
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        // Right after every statement, like the numbers of a gate.
        self.inner.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn new(settings: StreamRegistry, metrics: AdmissionMetrics) -> Self {
        let limit = settings.max_streams;
        let state = Mutex::new(State { settings, limit, debt: 0, waiting: 0 });
        Self { permits: Arc::new(Semaphore::new(limit)), state, metrics }
    }

    async fn admit(self: Arc<Self>) -> Result<Permit, Rejection> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(Rejection::ShuttingDown),
            Err(TryAcquireError::NoPermits) => self.wait().await?,
        };
        self.metrics.streams_open.inc();
        Ok(Permit { permit: Some(permit), gate: self })
    }

    async fn wait(self: &Arc<Self>) -> Result<OwnedSemaphorePermit, Rejection> {
        let _place = self.queue_up()?;
        let longest = self.state().settings.wait_timeout;
        match timeout(longest, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(Rejection::ShuttingDown),
            Err(_elapsed) => Err(Rejection::WaitedTooLong { waited: longest }),
        }
    }

    fn reconfigure(&self, settings: StreamRegistry) {
        self.state().settings = settings;
        self.set_limit(settings.max_streams);
    }

    fn set_limit(&self, limit: usize) -> usize {
        let mut state = self.state();
        let limit = limit.clamp(state.settings.min_streams, state.settings.max_streams);
        if limit > state.limit {
            let raise = limit - state.limit;
            let forgiven = raise.min(state.debt);
            state.debt -= forgiven;
            self.permits.add_permits(raise - forgiven);
        } else {
            let cut = state.limit - limit;
            state.debt += cut - self.permits.forget_permits(cut);
        }
        state.limit = limit;
        limit
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The numbers are right after every statement: a panic elsewhere can't have broken them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue_up(self: &Arc<Self>) -> Result<Place, Rejection> {
        let mut state = self.state();
        if state.waiting >= state.settings.max_waiting {
            return Err(Rejection::QueueFull { waiting: state.waiting });
        }
        state.waiting += 1;
        self.metrics.queue_length.inc();
        Ok(Place(Arc::clone(self)))
    }
}

/// A place in the wait queue; given up on drop, also when the client has gone.
struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
        self.0.metrics.queue_length.dec();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.metrics.streams_open.dec();
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.gate.state();
        if state.debt > 0 {
            state.debt -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests;
