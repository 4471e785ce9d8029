//! What is measured on the links to workers and on the streams over them.

mod memory;
mod work;

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use protocol::message::Heartbeat;

use self::{
    memory::{MemoryMetrics, WorkerGauges},
    work::{WorkCounters, WorkMetrics},
};
use super::{batcher::Flush, id::WorkerId};
use crate::metrics::{ByModel, MetricRegistry, PoolMetrics};

/// The metrics of all links and of all streams over them. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    streams: ByStream,
    /// Of all links together.
    pub batch: BatchMetrics,
    frames: Family<DirectionLabels, Counter>,
    messages: Family<DirectionLabels, Counter>,
    bytes: Family<DirectionLabels, Counter>,
    wakeups: Family<DirectionLabels, Counter>,
    sequences: Family<SequenceLabels, Gauge>,
    kv_usage: Family<WorkerLabel, Ratio>,
    memory: MemoryMetrics,
    work: WorkMetrics,
    buffers: PoolMetrics,
}

/// What is measured of streams, by their model.
#[derive(Clone, Debug)]
struct ByStream {
    prompt_tokens: ByModel<Counter>,
    generation_tokens: ByModel<Counter>,
    time_to_first_token: ByModel<Histogram>,
    inter_token_latency: ByModel<Histogram>,
    prefix_cache_queries: ByModel<Counter>,
    prefix_cache_hits: ByModel<Counter>,
    draft_tokens: ByModel<Counter>,
    draft_tokens_accepted: ByModel<Counter>,
    /// Of all models together.
    queues: PoolMetrics,
}

/// From 0 to 1.
type Ratio = Gauge<f64, AtomicU64>;

/// One link's own metrics, looked up once.
#[derive(Clone, Debug)]
pub struct LinkMetrics {
    /// What is sent to the worker.
    pub sent: Traffic,
    /// What comes from it.
    pub received: Traffic,
    /// Those of all links.
    pub batch: BatchMetrics,
    /// Memory of frames that are written; that of all links.
    pub buffers: PoolMetrics,
    running: Gauge,
    paused: Gauge,
    waiting: Gauge,
    kv_usage: Ratio,
    memory: WorkerGauges,
    work: WorkCounters,
}

/// What is measured of the frames that submissions share.
#[derive(Clone, Debug)]
pub struct BatchMetrics {
    size: Histogram,
    wait: Histogram,
    /// By [`Flush`], in the order of [`Flush::ALL`].
    flushes: [Counter; Flush::ALL.len()],
}

/// What travels in one direction of a link.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Frames.
    pub frames: Counter,
    /// Submissions, or reports and stream events, in them.
    pub messages: Counter,
    /// Bytes of messages in them.
    pub bytes: Counter,
    /// Doorbells: each wakes a side that slept.
    pub wakeups: Counter,
}

/// What is measured when events are delivered to the streams of a model.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    /// Tokens of prompts that were prepared.
    pub tokens_in: Counter,
    /// Generated tokens delivered.
    pub tokens_out: Counter,
    /// Seconds between a request's arrival and its first token.
    pub time_to_first_token: Histogram,
    /// Seconds between two deliveries of a stream, by token.
    pub inter_token_latency: Histogram,
    /// Tokens of the prompts of streams that have finished.
    pub prefix_cache_queries: Counter,
    /// Those of them whose keys and values the worker had kept from earlier requests.
    pub prefix_cache_hits: Counter,
    /// Tokens of finished streams that their workers guessed.
    pub draft_tokens: Counter,
    /// Those of them that were right.
    pub draft_tokens_accepted: Counter,
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
struct FlushLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabels {
    model: String,
    worker: u32,
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SequenceLabels {
    model: String,
    worker: u32,
    state: &'static str,
}

/// Directions, as their label has them.
const SENT: &str = "to_worker";
const RECEIVED: &str = "from_worker";

/// States of sequences, as their label has them.
const RUNNING: &str = "running";
const PAUSED: &str = "paused";
const WAITING: &str = "waiting";

impl WorkerMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        let frames = "Frames between gateway and worker";
        let messages = "Submissions to a worker, and reports and stream events from it";
        let bytes = "Bytes of messages between gateway and worker";
        let wakeups = "Times that gateway or worker had to wake the other";
        Self {
            frames: registry.register("ipc_frames", frames, Family::default()),
            messages: registry.register("ipc_messages", messages, Family::default()),
            bytes: registry.register("ipc_bytes", bytes, Family::default()),
            wakeups: registry.register("ipc_wakeups", wakeups, Family::default()),
            sequences: registry.register(
                "worker_sequences",
                "Sequences in a worker that run, are paused by their reader, or wait, as its last heartbeat said",
                Family::default(),
            ),
            kv_usage: registry.register(
                "kv_cache_usage_ratio",
                "Part of a worker's memory for keys and values that is in use, as its last heartbeat said",
                Family::default(),
            ),
            memory: MemoryMetrics::register(registry),
            work: WorkMetrics::register(registry),
            batch: BatchMetrics::register(registry),
            buffers: registry.pool("frames"),
            streams: ByStream::register(registry),
        }
    }

    /// Those of one worker's link.
    pub fn link(&self, worker: &WorkerId) -> LinkMetrics {
        let traffic = |direction| {
            let label = DirectionLabels::new(worker, direction);
            Traffic {
                frames: self.frames.get_or_create_owned(&label),
                messages: self.messages.get_or_create_owned(&label),
                bytes: self.bytes.get_or_create_owned(&label),
                wakeups: self.wakeups.get_or_create_owned(&label),
            }
        };
        let sequences = |state| self.sequences.get_or_create_owned(&SequenceLabels::new(worker, state));
        LinkMetrics {
            sent: traffic(SENT),
            received: traffic(RECEIVED),
            batch: self.batch.clone(),
            buffers: self.buffers.clone(),
            running: sequences(RUNNING),
            paused: sequences(PAUSED),
            waiting: sequences(WAITING),
            kv_usage: self.kv_usage.get_or_create_owned(&worker.into()),
            memory: self.memory.of(&worker.into()),
            work: self.work.of(&worker.into()),
        }
    }

    /// Those of a model's streams.
    pub fn streams(&self, model: &str) -> StreamMetrics {
        StreamMetrics {
            tokens_in: self.streams.prompt_tokens.of(model),
            tokens_out: self.streams.generation_tokens.of(model),
            time_to_first_token: self.streams.time_to_first_token.of(model),
            inter_token_latency: self.streams.inter_token_latency.of(model),
            prefix_cache_queries: self.streams.prefix_cache_queries.of(model),
            prefix_cache_hits: self.streams.prefix_cache_hits.of(model),
            draft_tokens: self.streams.draft_tokens.of(model),
            draft_tokens_accepted: self.streams.draft_tokens_accepted.of(model),
            queues: self.streams.queues.clone(),
        }
    }

    /// Removes the lines of a worker that is gone for good, or every model that was ever loaded would stay.
    pub fn forget_worker(&self, worker: &WorkerId) {
        for direction in [SENT, RECEIVED] {
            let label = DirectionLabels::new(worker, direction);
            for family in [&self.frames, &self.messages, &self.bytes, &self.wakeups] {
                family.remove(&label);
            }
        }
        for state in [RUNNING, PAUSED, WAITING] {
            self.sequences.remove(&SequenceLabels::new(worker, state));
        }
        self.kv_usage.remove(&worker.into());
        self.memory.forget(&worker.into());
        self.work.forget(&worker.into());
    }
}

impl LinkMetrics {
    /// What the worker does now.
    pub fn set_work(&self, heartbeat: &Heartbeat) {
        let &Heartbeat { runnable, paused, waiting, kv_tokens, kv_capacity, .. } = heartbeat;
        self.running.set(runnable.into());
        self.paused.set(paused.into());
        self.waiting.set(waiting.into());
        self.kv_usage.set(ratio(kv_tokens, kv_capacity));
        self.memory.set(heartbeat);
    }

    /// What the worker's process has done between two heartbeats.
    pub(super) fn count_work(&self, before: &Heartbeat, now: &Heartbeat) {
        self.work.count(before, now);
    }
}

impl Traffic {
    /// A frame with this many submissions was sent.
    pub(super) fn count_frame(&self, submissions: usize, bytes: usize) {
        self.frames.inc();
        self.messages.inc_by(submissions as u64);
        self.bytes.inc_by(bytes as u64);
    }
}

impl BatchMetrics {
    fn register(registry: &mut MetricRegistry) -> Self {
        let flushes = registry.register(
            "batch_flushes",
            "Frames to workers, by the reason why they were sent at that moment",
            Family::<FlushLabel, Counter>::default(),
        );
        Self {
            size: registry.register(
                "batch_size",
                "Submissions that shared a frame to a worker",
                // From 1 to 4096.
                Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            ),
            wait: registry.register(
                "batch_wait_seconds",
                "Time that the oldest submission of a frame was queued",
                // From 1 us to 4 s: an idle link, and one whose ring is full.
                Histogram::new(exponential_buckets(1e-6, 4.0, 12)),
            ),
            flushes: Flush::ALL
                .map(|flush| flushes.get_or_create_owned(&FlushLabel { reason: flush.name() })),
        }
    }

    /// Counts a frame of `size` submissions.
    pub(super) fn count(&self, size: usize, waited: Duration, flush: Flush) {
        self.size.observe(size as f64);
        self.wait.observe(waited.as_secs_f64());
        self.flushes[flush as usize].inc();
    }
}

impl ByStream {
    fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            prompt_tokens: registry.register_by_model(
                "prompt_tokens",
                "Tokens of prompts that were prepared",
                Counter::default,
            ),
            generation_tokens: registry.register_by_model(
                "generation_tokens",
                "Generated tokens delivered",
                Counter::default,
            ),
            time_to_first_token: registry.register_by_model(
                "time_to_first_token_seconds",
                "Time from a request's arrival to its first token",
                // From 1 ms to 65 s: a cached prompt on a GPU, a long one on a CPU.
                || Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            ),
            inter_token_latency: registry.register_by_model(
                "inter_token_latency_seconds",
                "Time between tokens of a stream",
                // From 0.5 ms to 4 s.
                || Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            ),
            prefix_cache_queries: registry.register_by_model(
                "prefix_cache_queries",
                "Tokens of prompts that were looked for among those of earlier requests, of finished streams",
                Counter::default,
            ),
            prefix_cache_hits: registry.register_by_model(
                "prefix_cache_hits",
                "Those of them that were there, so that they were not computed again",
                Counter::default,
            ),
            draft_tokens: registry.register_by_model(
                "draft_tokens",
                "Tokens that were guessed before they were computed, of finished streams",
                Counter::default,
            ),
            draft_tokens_accepted: registry.register_by_model(
                "draft_tokens_accepted",
                "Those of them that were right",
                Counter::default,
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

impl DirectionLabels {
    fn new(worker: &WorkerId, direction: &'static str) -> Self {
        let WorkerLabel { model, worker } = worker.into();
        Self { model, worker, direction }
    }
}

impl SequenceLabels {
    fn new(worker: &WorkerId, state: &'static str) -> Self {
        let WorkerLabel { model, worker } = worker.into();
        Self { model, worker, state }
    }
}

/// Part of `capacity` that is used; 0 where there is none.
fn ratio(used: u64, capacity: u64) -> f64 {
    if capacity == 0 { 0.0 } else { used as f64 / capacity as f64 }
}
