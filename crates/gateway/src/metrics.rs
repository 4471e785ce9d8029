//! What `/metrics` shows. A metric's stem is the verb of the stage that counts it.

use std::sync::Mutex;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::worker::{WorkerId, WorkerState};

/// All of the gateway's metrics. Fields are incremented where things happen.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    rejections: Family<ReasonLabel, Counter>,
    worker_states: Family<StateLabels, Gauge>,
    worker_restarts: Family<WorkerLabel, Counter>,
    ship_frames: Family<WorkerLabel, Counter>,
    ship_messages: Family<WorkerLabel, Counter>,
    deliver_frames: Family<WorkerLabel, Counter>,
    deliver_messages: Family<WorkerLabel, Counter>,
    bells: Family<BellLabels, Counter>,
    verifications: Family<VerifyLabels, Counter>,
    /// Streams that hold a permit.
    pub streams_open: Gauge,
    /// Streams that may run at once.
    pub admit_limit: Gauge,
    /// Requests that wait for a permit.
    pub admit_queue_length: Gauge,
    /// Prompt tokens of admitted requests.
    pub tokens_in: Counter,
    /// Generated tokens delivered.
    pub tokens_out: Counter,
    /// Seconds between a request's arrival and its first token.
    pub time_to_first_token: Histogram,
    /// Seconds between two deliveries of a stream, by token.
    pub inter_token_latency: Histogram,
    /// Seconds that admitted requests waited for a permit.
    pub queue_time: Histogram,
}

/// One link's own counters, looked up once.
#[derive(Clone, Debug)]
pub struct LinkMetrics {
    /// Frames written to the worker.
    pub ship_frames: Counter,
    /// Submissions in them.
    pub ship_messages: Counter,
    /// Frames read from the worker.
    pub deliver_frames: Counter,
    /// Reports and stream events in them.
    pub deliver_messages: Counter,
    /// Bells rung.
    pub bells_sent: Counter,
    /// Bells heard.
    pub bells_received: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerifyLabels {
    model: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkerLabel {
    model: String,
    worker: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    model: String,
    worker: u32,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BellLabels {
    model: String,
    worker: u32,
    direction: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            rejections: Family::default(),
            worker_states: Family::default(),
            worker_restarts: Family::default(),
            ship_frames: Family::default(),
            ship_messages: Family::default(),
            deliver_frames: Family::default(),
            deliver_messages: Family::default(),
            bells: Family::default(),
            verifications: Family::default(),
            streams_open: Gauge::default(),
            admit_limit: Gauge::default(),
            admit_queue_length: Gauge::default(),
            tokens_in: Counter::default(),
            tokens_out: Counter::default(),
            // From 1 ms to 65 s: a cached prompt on a GPU, a long one on a CPU.
            time_to_first_token: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            // From 0.5 ms to 4 s.
            inter_token_latency: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            // From 0.1 ms to 52 s.
            queue_time: Histogram::new(exponential_buckets(0.0001, 2.0, 20)),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let r = registry.sub_registry_with_prefix("kr");
        r.register("accept_requests", "HTTP requests answered, by route and status", self.requests.clone());
        r.register("admit_rejections", "Requests turned away before a stream began", self.rejections.clone());
        r.register("admit_limit", "Streams that may run at once", self.admit_limit.clone());
        r.register("admit_queue_length", "Requests waiting for a permit", self.admit_queue_length.clone());
        r.register(
            "queue_time_seconds",
            "Time admitted requests waited for a permit",
            self.queue_time.clone(),
        );
        r.register("ship_frames", "Frames written to a worker", self.ship_frames.clone());
        r.register("ship_messages", "Submissions written to a worker", self.ship_messages.clone());
        r.register("deliver_frames", "Frames read from a worker", self.deliver_frames.clone());
        r.register(
            "deliver_messages",
            "Reports and events read from a worker",
            self.deliver_messages.clone(),
        );
        r.register("bells", "Bells rung and heard on a worker's socket", self.bells.clone());
        r.register("streams_open", "Streams that hold a permit", self.streams_open.clone());
        r.register("tokens_in", "Prompt tokens of admitted requests", self.tokens_in.clone());
        r.register("tokens_out", "Generated tokens delivered", self.tokens_out.clone());
        r.register(
            "time_to_first_token_seconds",
            "Time from a request's arrival to its first token",
            self.time_to_first_token.clone(),
        );
        r.register(
            "inter_token_latency_seconds",
            "Time between tokens of a stream",
            self.inter_token_latency.clone(),
        );
        r.register("worker_restarts", "Lives of a worker after its first", self.worker_restarts.clone());
        r.register("verify_runs", "Stored models read whole, by outcome", self.verifications.clone());
        r.register("worker_state", "1 for the state a worker is in", self.worker_states.clone());
    }

    /// An answer went out.
    pub fn count_request(&self, route: &str, code: u16) {
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), code }).inc();
    }

    /// A request was turned away.
    pub fn count_rejection(&self, reason: &'static str) {
        self.rejections.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A stored model was read whole while it served.
    pub fn count_verification(&self, model: &str, good: bool) {
        let outcome = if good { GOOD } else { DAMAGED };
        self.verifications.get_or_create(&VerifyLabels { model: model.to_owned(), outcome }).inc();
    }

    /// A worker begins another life.
    pub fn count_restart(&self, worker: &WorkerId) {
        self.worker_restarts.get_or_create(&worker.into()).inc();
    }

    /// A worker is in `state` now.
    pub fn set_worker_state(&self, worker: &WorkerId, state: WorkerState) {
        for other in WorkerState::ALL {
            let gauge = self.worker_states.get_or_create_owned(&StateLabels::of(worker, other));
            gauge.set(i64::from(other == state));
        }
    }

    /// The counters of one worker's link.
    pub fn link(&self, worker: &WorkerId) -> LinkMetrics {
        let label = worker.into();
        let bells = |direction| self.bells.get_or_create_owned(&BellLabels::of(worker, direction));
        LinkMetrics {
            ship_frames: self.ship_frames.get_or_create_owned(&label),
            ship_messages: self.ship_messages.get_or_create_owned(&label),
            deliver_frames: self.deliver_frames.get_or_create_owned(&label),
            deliver_messages: self.deliver_messages.get_or_create_owned(&label),
            bells_sent: bells(SENT),
            bells_received: bells(RECEIVED),
        }
    }

    /// A worker is gone for good: its lines go, too, or every model that was ever loaded would stay.
    pub fn forget_worker(&self, worker: &WorkerId) {
        let label = worker.into();
        let of_workers = [
            &self.worker_restarts,
            &self.ship_frames,
            &self.ship_messages,
            &self.deliver_frames,
            &self.deliver_messages,
        ];
        for family in of_workers {
            family.remove(&label);
        }
        for direction in [SENT, RECEIVED] {
            self.bells.remove(&BellLabels::of(worker, direction));
        }
        for state in WorkerState::ALL {
            self.worker_states.remove(&StateLabels::of(worker, state));
        }
    }

    /// A model is unloaded: what only it had goes, too.
    pub fn forget_model(&self, model: &str) {
        for outcome in [GOOD, DAMAGED] {
            self.verifications.remove(&VerifyLabels { model: model.to_owned(), outcome });
        }
    }

    /// Everything in the OpenMetrics text format.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

/// Outcomes of a verification, as their label has them.
const GOOD: &str = "good";
const DAMAGED: &str = "damaged";

/// Directions of bells, as their label has them.
const SENT: &str = "sent";
const RECEIVED: &str = "received";

impl From<&WorkerId> for WorkerLabel {
    fn from(worker: &WorkerId) -> Self {
        Self { model: worker.model.to_string(), worker: worker.number as u32 }
    }
}

impl StateLabels {
    fn of(worker: &WorkerId, state: WorkerState) -> Self {
        Self { model: worker.model.to_string(), worker: worker.number as u32, state: state.name() }
    }
}

impl BellLabels {
    fn of(worker: &WorkerId, direction: &'static str) -> Self {
        Self { model: worker.model.to_string(), worker: worker.number as u32, direction }
    }
}
