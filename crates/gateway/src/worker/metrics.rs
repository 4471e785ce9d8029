//! What is measured on the links to workers and on the streams over them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::id::WorkerId;
use crate::metrics::{MetricRegistry, PoolMetrics};

/// The metrics of all links and of all streams over them. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    /// Of all streams together.
    pub streams: StreamMetrics,
    ship_frames: Family<WorkerLabel, Counter>,
    ship_messages: Family<WorkerLabel, Counter>,
    deliver_frames: Family<WorkerLabel, Counter>,
    deliver_messages: Family<WorkerLabel, Counter>,
    doorbells: Family<DoorbellLabels, Counter>,
    frames: PoolMetrics,
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
    /// Doorbells that the gateway rang.
    pub doorbells_sent: Counter,
    /// Doorbells that the worker rang.
    pub doorbells_received: Counter,
    /// Memory of frames that are written.
    pub frames: PoolMetrics,
}

/// What is measured when events are delivered to streams.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    /// Prompt tokens of admitted requests.
    pub tokens_in: Counter,
    /// Generated tokens delivered.
    pub tokens_out: Counter,
    /// Seconds between a request's arrival and its first token.
    pub time_to_first_token: Histogram,
    /// Seconds between two deliveries of a stream, by token.
    pub inter_token_latency: Histogram,
    /// The queues of streams.
    pub queues: PoolMetrics,
}

/// One worker, as labels name it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WorkerLabel {
    model: String,
    worker: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DoorbellLabels {
    model: String,
    worker: u32,
    direction: &'static str,
}

/// Directions of doorbells, as their label has them.
const SENT: &str = "sent";
const RECEIVED: &str = "received";

impl WorkerMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            ship_frames: registry.register("ship_frames", "Frames written to a worker", Family::default()),
            ship_messages: registry.register(
                "ship_messages",
                "Submissions written to a worker",
                Family::default(),
            ),
            deliver_frames: registry.register(
                "deliver_frames",
                "Frames read from a worker",
                Family::default(),
            ),
            deliver_messages: registry.register(
                "deliver_messages",
                "Reports and events read from a worker",
                Family::default(),
            ),
            doorbells: registry.register(
                "bells",
                "Bells rung and heard on a worker's socket",
                Family::default(),
            ),
            frames: registry.pool("frames"),
            streams: StreamMetrics::register(registry),
        }
    }

    /// The counters of one worker's link.
    pub fn link(&self, worker: &WorkerId) -> LinkMetrics {
        let label = worker.into();
        let doorbells =
            |direction| self.doorbells.get_or_create_owned(&DoorbellLabels::new(worker, direction));
        LinkMetrics {
            ship_frames: self.ship_frames.get_or_create_owned(&label),
            ship_messages: self.ship_messages.get_or_create_owned(&label),
            deliver_frames: self.deliver_frames.get_or_create_owned(&label),
            deliver_messages: self.deliver_messages.get_or_create_owned(&label),
            doorbells_sent: doorbells(SENT),
            doorbells_received: doorbells(RECEIVED),
            frames: self.frames.clone(),
        }
    }

    /// Removes the lines of a worker that is gone for good, or every model that was ever loaded would stay.
    pub fn forget_worker(&self, worker: &WorkerId) {
        let label = worker.into();
        for family in [&self.ship_frames, &self.ship_messages, &self.deliver_frames, &self.deliver_messages] {
            family.remove(&label);
        }
        for direction in [SENT, RECEIVED] {
            self.doorbells.remove(&DoorbellLabels::new(worker, direction));
        }
    }
}

impl StreamMetrics {
    fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            tokens_in: registry.register(
                "tokens_in",
                "Prompt tokens of admitted requests",
                Counter::default(),
            ),
            tokens_out: registry.register("tokens_out", "Generated tokens delivered", Counter::default()),
            time_to_first_token: registry.register(
                "time_to_first_token_seconds",
                "Time from a request's arrival to its first token",
                // From 1 ms to 65 s: a cached prompt on a GPU, a long one on a CPU.
                Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            ),
            inter_token_latency: registry.register(
                "inter_token_latency_seconds",
                "Time between tokens of a stream",
                // From 0.5 ms to 4 s.
                Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            ),
            queues: registry.pool("queues"),
        }
    }
}

impl From<&WorkerId> for WorkerLabel {
    fn from(worker: &WorkerId) -> Self {
        Self { model: worker.model.to_string(), worker: worker.number as u32 }
    }
}

impl DoorbellLabels {
    fn new(worker: &WorkerId, direction: &'static str) -> Self {
        let WorkerLabel { model, worker } = worker.into();
        Self { model, worker, direction }
    }
}
