//! The places of all models behind one lock, and those who hold them or wait for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout_at};

use super::{
    metrics::{AdmissionMetrics, Counted},
    permit::{Giver, Permit},
    rates::now,
    rejection::Rejection,
};
use crate::{
    config::StreamRegistry,
    serve::{
        gate::{Arrival, Arrived, Gate, Grant, Occupancy, Started},
        limit::{LimitSettings, WorkersLoad},
        queue::{Bound, Bounds, Ticket},
    },
};

/// The places of all models.
#[derive(Debug)]
pub(super) struct Places {
    table: Mutex<Table>,
    pub(super) metrics: AdmissionMetrics,
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

/// What became of a request at first.
pub(super) enum Entered {
    Runs(Permit),
    Waits(Waiting),
}

/// A place in the wait queue; given up on drop, also when the client has gone.
pub(super) struct Waiting {
    places: Arc<Places>,
    model: Arc<str>,
    ticket: Ticket,
    permit: oneshot::Receiver<Result<Permit, Rejection>>,
    _waiting: Counted,
}

/// Gates that are kept although nobody is at them: about as many as models can be loaded.
pub(super) const MAX_IDLE_GATES: usize = 64;

impl Places {
    pub(super) fn new(settings: StreamRegistry, metrics: AdmissionMetrics) -> Self {
        let table = Mutex::new(Table { settings, gates: HashMap::new(), closed: false });
        Self { table, metrics }
    }

    /// Changes the settings of all gates, present and future.
    pub(super) fn configure(self: &Arc<Self>, settings: StreamRegistry) {
        let now = now();
        let mut table = self.table();
        table.settings = settings;
        for gate in table.gates.values_mut() {
            gate.set_settings(bounds(&settings), LimitSettings::from(&settings), now);
        }
        let models: Vec<_> = table.gates.keys().cloned().collect();
        drop(table);
        for model in models {
            self.settle(&model);
            self.show_limit(&model);
        }
    }

    /// Turns away those who wait, and all who come.
    pub(super) fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        let waiters: Vec<_> = table.gates.values_mut().flat_map(Gate::drain).collect();
        self.publish(&table);
        drop(table);
        for waiter in waiters {
            // It fails if the client has gone.
            let _ = waiter.send(Err(Rejection::ShuttingDown));
        }
    }

    pub(super) fn wait_timeout(&self) -> Duration {
        self.table().settings.wait_timeout
    }

    pub(super) fn max_streams(&self) -> usize {
        self.table().settings.max_streams
    }

    pub(super) fn is_closed(&self) -> bool {
        self.table().closed
    }

    pub(super) fn occupancy(&self, model: &str) -> Option<Occupancy> {
        self.table().gates.get(model).map(Gate::occupancy)
    }

    /// Forgets a model's gate, if nobody is at it.
    pub(super) fn forget(&self, model: &str) {
        self.forget_in(&mut self.table(), model);
    }

    /// A request comes to the model's gate.
    pub(super) fn arrive(
        self: &Arc<Self>,
        model: &Arc<str>,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Entered, Rejection> {
        let (sender, receiver) = oneshot::channel();
        let places = arrival.places;
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
                Ok(Entered::Runs(self.permit(model, started, places)))
            }
            Arrived::Refused(bound) => Err(refusal(gate, bound)),
            Arrived::Waits(ticket, evicted) => {
                let evicted: Vec<_> =
                    evicted.into_iter().map(|(waiter, bound)| (waiter, refusal(gate, bound))).collect();
                self.publish(&table);
                drop(table);
                let has_evicted = !evicted.is_empty();
                for (waiter, rejection) in evicted {
                    // It fails if the client has gone.
                    let _ = waiter.send(Err(rejection));
                }
                if has_evicted {
                    // One of them may have kept places free, of which it needed more.
                    self.settle(model);
                }
                let (places, model) = (Arc::clone(self), Arc::clone(model));
                let _waiting = self.metrics.waits(&model);
                Ok(Entered::Waits(Waiting { places, model, ticket, permit: receiver, _waiting }))
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
            gate.withdraw(std::mem::take(&mut gone), now);
            let next: Vec<_> = std::iter::from_fn(|| gate.next(now)).collect();
            self.publish(&table);
            drop(table);
            if next.is_empty() {
                return;
            }
            // Without the lock: a permit that nobody takes would need it again.
            for Grant { waiter, started, places } in next {
                if let Err(Ok(permit)) = waiter.send(Ok(self.permit(model, started, places))) {
                    permit.disarm();
                    gone += places;
                }
            }
        }
    }

    /// A permit, with those of `count - 1` other streams.
    fn permit(self: &Arc<Self>, model: &Arc<str>, started: Started, count: usize) -> Permit {
        let giver: Arc<dyn Giver> = Arc::<Self>::clone(self);
        Permit::group(&giver, model, started, count)
    }

    /// The load of all models is judged. `workers` says what a model's workers report; `None` if it is not loaded.
    pub(super) fn tick(self: &Arc<Self>, workers: impl Fn(&str) -> Option<WorkersLoad>) {
        let models: Vec<_> = self.table().gates.keys().cloned().collect();
        for model in models {
            // Asked for without the lock.
            let Some(load) = workers(&model) else {
                self.forget(&model);
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

    fn forget_in(&self, table: &mut Table, model: &str) {
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
                models.iter().for_each(|model| self.forget_in(table, model));
            }
            self.metrics.set_limit(model, LimitSettings::from(&table.settings).start);
        }
        let Table { settings, gates, .. } = table;
        let new = || Gate::new(bounds(settings), LimitSettings::from(&*settings), now);
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

    #[cfg(test)]
    pub(super) fn gates(&self) -> usize {
        self.table().gates.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Right after every statement: a panic elsewhere can't have broken it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Giver for Places {
    fn count(&self, model: &Arc<str>) -> Counted {
        self.metrics.runs(model)
    }

    fn first_token(&self, model: &str, started: Started, computed_tokens: u32) {
        if let Some(gate) = self.table().gates.get_mut(model) {
            gate.first_token(started, computed_tokens, now());
        }
    }

    fn release(self: Arc<Self>, model: &Arc<str>, had_token: bool) {
        if let Some(gate) = self.table().gates.get_mut(model) {
            gate.finish(had_token, now());
        }
        self.settle(model);
    }
}

impl Waiting {
    /// Until a permit comes, or it is too late for one.
    pub(super) async fn wait(
        mut self,
        arrived: Instant,
        deadline: Option<Instant>,
    ) -> Result<Permit, Rejection> {
        let longest = self.places.wait_timeout();
        let until = deadline.map_or(arrived + longest, |deadline| deadline.min(arrived + longest));
        match timeout_at(until.into(), &mut self.permit).await {
            // It came in the same moment, too late to be of use.
            Ok(Ok(Ok(_permit))) if deadline.is_some_and(|at| at <= now()) => Err(Rejection::DeadlinePassed),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_closed)) => Err(Rejection::ShuttingDown),
            Err(_elapsed) if deadline.is_some_and(|at| at <= until) => Err(Rejection::DeadlinePassed),
            Err(_elapsed) => Err(self.places.waited_too_long(&self.model, longest)),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut table = self.places.table();
        let left = table.gates.get_mut(&self.model).and_then(|gate| gate.leave(&self.ticket));
        self.places.publish(&table);
        drop(table);
        if left.is_some() {
            // It may have kept places free, of which it needed more.
            self.places.settle(&self.model);
        }
        drop(left);
    }
}

fn bounds(settings: &StreamRegistry) -> Bounds {
    Bounds { requests: settings.max_waiting, tokens: settings.max_waiting_tokens }
}
