//! Stage *admit*: a [`Permit`] for a stream, or a [`Rejection`] before any response header.
//!
//! ```text
//!            a place is free
//! request ─────────────────────────────────────► Permit ──drop──► the next in the queue gets it
//!    │ none free        ▲ by fairness and priority
//!    └──► wait queue ───┘
//!    │        ├─ waited too long ─────► Rejection::WaitedTooLong
//!    │        └─ its deadline passed ─► Rejection::DeadlinePassed
//!    ├─ queue full ───────────────────► Rejection::QueueFull
//!    └─ caller's rate used up ────────► Rejection::RateLimited
//! ```
//!
//! What has a permit is never dropped; only what still waits can be turned away. Each model has places and a queue for
//! itself: it has workers for itself, and clients of one must not keep those of another waiting. How many places there
//! are follows the load (`limit.rs`).
//!
//! Everything is decided in `gate.rs`; here are the lock, and the futures that wait. Whoever waits has a channel's
//! end; a permit travels through it as a value. So one that arrives after its receiver has gone is dropped like any
//! other, and its place is given back.

mod metrics;
mod permit;
mod places;
mod rates;
mod rejection;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::{metrics::AdmissionMetrics, permit::Permit, rejection::Rejection};
use self::{
    places::{Entered, Places},
    rates::{Rates, now},
};
use super::{
    caller::Caller,
    gate::{Arrival, Occupancy},
    priority::Priority,
};
use crate::config::{RateLimits, StreamRegistry};

/// Decides which requests may become streams. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Admission {
    places: Arc<Places>,
    rates: Rates,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The name under which the model is listed.
    pub model: String,
    /// Who asks.
    pub caller: Caller,
    /// How urgent it is.
    pub priority: Priority,
    /// Tokens of prompt and answer of one stream, estimated.
    pub tokens: u64,
    /// Streams that it asks for, at least one: all or none are admitted, and each is a request of its caller's rate.
    pub streams: usize,
    /// When it has to be answered.
    pub deadline: Option<Instant>,
}

impl From<&str> for Ask {
    /// Of nobody in particular, for one token.
    fn from(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            caller: Caller::default(),
            priority: Priority::default(),
            tokens: 1,
            streams: 1,
            deadline: None,
        }
    }
}

impl Admission {
    /// Without limits of rate.
    pub fn new(settings: StreamRegistry, metrics: AdmissionMetrics) -> Self {
        Self { places: Arc::new(Places::new(settings, metrics)), rates: Rates::default() }
    }

    /// Changes the settings. What runs and waits goes on; a lower limit takes effect as streams end.
    pub fn configure(&self, settings: StreamRegistry, rates: RateLimits) {
        self.rates.configure(rates);
        self.places.configure(settings);
    }

    /// A permit for a stream, or for several in one, at once or after waiting. Dropping the future gives up whatever it had.
    ///
    /// # Errors
    /// There is no place, and none came free in time; or the caller's rate is used up.
    pub async fn admit(&self, ask: impl Into<Ask>) -> Result<Permit, Rejection> {
        let (ask, arrived) = (ask.into(), now());
        let metrics = &self.places.metrics;
        let queue_time = metrics.queue_time(&ask.model);
        let admitted = self.enter(ask, arrived).await;
        match &admitted {
            Ok(_) => queue_time.observe(now().saturating_duration_since(arrived).as_secs_f64()),
            Err(rejection) => metrics.count_rejection(rejection.reason()),
        }
        admitted
    }

    async fn enter(&self, ask: Ask, now: Instant) -> Result<Permit, Rejection> {
        let Ask { model, caller, priority, tokens, streams, deadline } = ask;
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Rejection::DeadlinePassed);
        }
        let charge = self.rates.take(&caller, tokens, now)?;
        let of_others = (1..streams).map(|_| self.rates.take(&caller, tokens, now));
        let of_others = of_others.collect::<Result<Vec<_>, _>>()?;
        let model: Arc<str> = model.into();
        let tokens = tokens.saturating_mul(streams as u64);
        let arrival = Arrival { caller, priority, tokens, places: streams };
        let mut permit = match self.places.arrive(&model, arrival, now)? {
            Entered::Runs(permit) => permit,
            Entered::Waits(waiting) => waiting.wait(now, deadline).await?,
        };
        permit.admit(charge, of_others, deadline);
        Ok(permit)
    }

    /// Turns away waiting and new requests; permits already given stay valid.
    pub fn close(&self) {
        self.places.close();
    }

    /// A model was unloaded: nothing of it is shown any more, unless something of it still runs.
    pub fn forget(&self, model: &str) {
        self.places.forget(model);
    }

    /// Streams that may run at best.
    pub fn max_streams(&self) -> usize {
        self.places.max_streams()
    }

    /// How long a request may wait for a place, and again for a worker.
    pub fn wait_timeout(&self) -> Duration {
        self.places.wait_timeout()
    }

    /// What is measured.
    pub fn metrics(&self) -> &AdmissionMetrics {
        &self.places.metrics
    }

    /// Whether [`Admission::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    /// How the model's places are filled; `None` if nobody has asked for it lately.
    pub fn occupancy(&self, model: &str) -> Option<Occupancy> {
        self.places.occupancy(model)
    }
}

#[cfg(test)]
mod tests;
