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
//! are follows the load ([`super::limit`]).
//!
//! Everything is decided in [`super::gate`]; here are the lock, and the futures that wait. Whoever waits has a channel's
//! end; a permit travels through it as a value. So one that arrives after its receiver has gone is dropped like any
//! other, and its place is given back.

mod metrics;
mod permit;
mod rates;
mod rejection;
mod waiting;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

pub use self::{metrics::AdmissionMetrics, permit::Permit, rejection::Rejection};
use self::{rates::Rates, waiting::Waiting};
use super::{
    caller::Caller,
    gate::{Arrival, Arrived, Gate, Occupancy, Started},
    limit::{LimitSettings, WorkersLoad},
    priority::Priority,
    queue::{Bound, Bounds},
};
use crate::config::{RateLimits, StreamRegistry};

/// Decides which requests may become streams. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Admission {
    inner: Arc<Inner>,
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
    /// Tokens of prompt and answer, estimated.
    pub tokens: u64,
    /// When it has to be answered.
    pub deadline: Option<Instant>,
}

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    rates: Rates,
    metrics: AdmissionMetrics,
}

#[derive(Debug)]
struct Table {
    settings: StreamRegistry,
    /// By model.
    gates: HashMap<Arc<str>, Gate<Waiter>>,
    closed: bool,
}

/// Who waits for a permit.
type Waiter = oneshot::Sender<Result<Permit, Rejection>>;

/// Gates that are kept although nobody is at them: about as many as models can be loaded.
const MAX_IDLE_GATES: usize = 64;

impl From<&str> for Ask {
    /// Of nobody in particular, for one token.
    fn from(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            caller: Caller::default(),
            priority: Priority::default(),
            tokens: 1,
            deadline: None,
        }
    }
}

impl Admission {
    /// Without limits of rate.
    pub fn new(settings: StreamRegistry, metrics: AdmissionMetrics) -> Self {
        let table = Mutex::new(Table { settings, gates: HashMap::new(), closed: false });
        Self { inner: Arc::new(Inner { table, rates: Rates::default(), metrics }) }
    }

    /// Changes the settings. What runs and waits goes on; a lower limit takes effect as streams end.
    pub fn configure(&self, settings: StreamRegistry, rates: RateLimits) {
        self.inner.rates.configure(rates);
        let now = now();
        let mut table = self.inner.table();
        table.settings = settings;
        for gate in table.gates.values_mut() {
            gate.set_settings(bounds(&settings), limit_settings(&settings), now);
        }
        let models: Vec<_> = table.gates.keys().cloned().collect();
        drop(table);
        for model in models {
            self.inner.settle(&model);
            self.inner.show_limit(&model);
        }
    }

    /// A permit for a stream, at once or after waiting. Dropping the future gives up whatever it had.
    ///
    /// # Errors
    /// There is no place, and none came free in time; or the caller's rate is used up.
    pub async fn admit(&self, ask: impl Into<Ask>) -> Result<Permit, Rejection> {
        let arrived = now();
        let admitted = self.enter(ask.into(), arrived).await;
        let metrics = &self.inner.metrics;
        match &admitted {
            Ok(_) => metrics.queue_time.observe(now().saturating_duration_since(arrived).as_secs_f64()),
            Err(rejection) => metrics.count_rejection(rejection.reason()),
        }
        admitted
    }

    async fn enter(&self, ask: Ask, now: Instant) -> Result<Permit, Rejection> {
        let Ask { model, caller, priority, tokens, deadline } = ask;
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Rejection::DeadlinePassed);
        }
        let charge = self.inner.rates.take(&caller, tokens, now)?;
        let model: Arc<str> = model.into();
        let arrival = Arrival { caller, priority, tokens };
        let mut permit = match self.inner.arrive(&model, arrival, now)? {
            Entered::Runs(permit) => permit,
            Entered::Waits(waiting) => waiting.wait(now, deadline).await?,
        };
        permit.admit(charge, deadline);
        Ok(permit)
    }

    /// Turns away waiting and new requests; permits already given stay valid.
    pub fn close(&self) {
        let mut table = self.inner.table();
        table.closed = true;
        let waiters: Vec<_> = table.gates.values_mut().flat_map(Gate::drain).collect();
        self.inner.publish(&table);
        drop(table);
        for waiter in waiters {
            // It fails if the client has gone.
            let _ = waiter.send(Err(Rejection::ShuttingDown));
        }
    }

    /// A model was unloaded: nothing of it is shown any more, unless something of it still runs.
    pub fn forget(&self, model: &str) {
        self.inner.forget(&mut self.inner.table(), model);
    }

    /// What is measured.
    pub fn metrics(&self) -> &AdmissionMetrics {
        &self.inner.metrics
    }

    /// Whether [`Admission::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.inner.table().closed
    }

    /// How the model's places are filled; `None` if nobody has asked for it lately.
    pub fn occupancy(&self, model: &str) -> Option<Occupancy> {
        self.inner.table().gates.get(model).map(Gate::occupancy)
    }
}

/// What became of a request at first.
enum Entered {
    Runs(Permit),
    Waits(Waiting),
}

impl Inner {
    /// A request comes to the model's gate.
    fn arrive(
        self: &Arc<Self>,
        model: &Arc<str>,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Entered, Rejection> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.table();
        if table.closed {
            return Err(Rejection::ShuttingDown);
        }
        let gate = self.gate(&mut table, model, now);
        let arrived = gate.arrive(arrival, sender, now);
        let refusal = |gate: &mut Gate<Waiter>, bound: Bound| Rejection::QueueFull {
            bound,
            occupancy: gate.occupancy(),
            retry_after: gate.promise(now),
        };
        match arrived {
            Arrived::Runs(started) => {
                self.publish(&table);
                drop(table);
                Ok(Entered::Runs(Permit::new(self, model, started)))
            }
            Arrived::Refused(bound) => Err(refusal(gate, bound)),
            Arrived::Waits(ticket, evicted) => {
                let evicted: Vec<_> =
                    evicted.into_iter().map(|waiter| (waiter, refusal(gate, Bound::Requests))).collect();
                self.publish(&table);
                drop(table);
                for (waiter, rejection) in evicted {
                    // It fails if the client has gone.
                    let _ = waiter.send(Err(rejection));
                }
                let (inner, model) = (Arc::clone(self), Arc::clone(model));
                Ok(Entered::Waits(Waiting { inner, model, ticket, permit: receiver }))
            }
        }
    }

    /// Gives free places to those who wait for them.
    fn settle(self: &Arc<Self>, model: &Arc<str>) {
        let mut gone = 0;
        loop {
            let now = now();
            let mut table = self.table();
            let Some(gate) = table.gates.get_mut(model) else { return };
            (0..std::mem::take(&mut gone)).for_each(|_| gate.withdraw(now));
            let next: Vec<_> = std::iter::from_fn(|| gate.next(now)).collect();
            self.publish(&table);
            drop(table);
            if next.is_empty() {
                return;
            }
            // Without the lock: a permit that nobody takes would need it again.
            for (waiter, started) in next {
                if let Err(Ok(permit)) = waiter.send(Ok(Permit::new(self, model, started))) {
                    permit.disarm();
                    gone += 1;
                }
            }
        }
    }

    /// A stream ended.
    fn release(self: &Arc<Self>, model: &Arc<str>, had_token: bool) {
        if let Some(gate) = self.table().gates.get_mut(model) {
            gate.finish(had_token, now());
        }
        self.settle(model);
    }

    /// A stream had its first token.
    fn first_token(&self, model: &str, started: Started, prompt_tokens: u32) {
        if let Some(gate) = self.table().gates.get_mut(model) {
            gate.first_token(started, prompt_tokens, now());
        }
    }

    /// The load of all models is judged. `workers` says what a model's workers report; `None` if it is not loaded.
    fn tick(self: &Arc<Self>, workers: impl Fn(&str) -> Option<WorkersLoad>) {
        let models: Vec<_> = self.table().gates.keys().cloned().collect();
        for model in models {
            // Asked for without the lock.
            let Some(load) = workers(&model) else {
                self.forget(&mut self.table(), &model);
                continue;
            };
            let cause = self.table().gates.get_mut(&model).and_then(|gate| gate.tick(load, now()));
            if let Some(cause) = cause {
                self.metrics.count_cut(&model, cause);
            }
            self.settle(&model);
            self.show_limit(&model);
        }
    }

    /// Forgets a model's gate, if nobody is at it.
    fn forget(&self, table: &mut Table, model: &str) {
        if table.gates.get(model).is_some_and(Gate::is_idle) {
            table.gates.remove(model);
            self.metrics.forget_model(model);
        }
    }

    fn waited_too_long(&self, model: &str, waited: Duration) -> Rejection {
        let mut table = self.table();
        match table.gates.get_mut(model) {
            Some(gate) => {
                let (occupancy, retry_after) = (gate.occupancy(), gate.promise(now()));
                Rejection::WaitedTooLong { waited, occupancy, retry_after }
            }
            // It was waiting there a moment ago.
            None => Rejection::ShuttingDown,
        }
    }

    /// The model's gate.
    fn gate<'a>(&self, table: &'a mut Table, model: &Arc<str>, now: Instant) -> &'a mut Gate<Waiter> {
        if !table.gates.contains_key(model) {
            if table.gates.len() >= MAX_IDLE_GATES {
                // Models come and go: gates at which nobody is are made again when they are needed.
                let models: Vec<_> = table.gates.keys().cloned().collect();
                models.iter().for_each(|model| self.forget(table, model));
            }
            self.metrics.set_limit(model, limit_settings(&table.settings).start);
        }
        let Table { settings, gates, .. } = table;
        let new = || Gate::new(bounds(settings), limit_settings(settings), now);
        gates.entry(Arc::clone(model)).or_insert_with(new)
    }

    /// Shows the numbers.
    fn publish(&self, table: &Table) {
        let (mut running, mut waiting, mut tokens) = (0, 0, 0);
        for gate in table.gates.values() {
            let occupancy = gate.occupancy();
            running += occupancy.running;
            waiting += occupancy.waiting;
            tokens += occupancy.waiting_tokens;
        }
        self.metrics.streams_open.set(running as i64);
        self.metrics.queue_length.set(waiting as i64);
        self.metrics.queue_tokens.set(tokens as i64);
    }

    fn show_limit(&self, model: &str) {
        if let Some(gate) = self.table().gates.get(model) {
            self.metrics.set_limit(model, gate.occupancy().limit);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Right after every statement: a panic elsewhere can't have broken it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bounds(settings: &StreamRegistry) -> Bounds {
    Bounds { requests: settings.max_waiting, tokens: settings.max_waiting_tokens }
}

fn limit_settings(settings: &StreamRegistry) -> LimitSettings {
    let StreamRegistry { min_streams: min, max_streams: max, start_streams: start, .. } = *settings;
    LimitSettings { min, max, start, first_token_target: settings.first_token_target }
}

/// By the clock of tokio, which a test may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
