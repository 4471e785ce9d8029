//! What workers do, as they count it from the start of each process.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use protocol::message::{Heartbeat, StepTime};

use super::WorkerLabel;
use crate::metrics::MetricRegistry;

/// The counters of all workers.
#[derive(Clone, Debug)]
pub(super) struct WorkMetrics {
    step_seconds: Family<StageLabel, Seconds>,
    preemptions: Family<WorkerLabel, Counter>,
    disk_reads: Family<WorkerLabel, Counter>,
    disk_tokens: Family<WorkerLabel, Counter>,
    disk_bytes: Family<WorkerLabel, Gauge>,
}

/// Those of one worker, over all its processes.
#[derive(Clone, Debug)]
pub(super) struct WorkCounters {
    /// In the order of [`STAGES`].
    step_seconds: [Seconds; STAGES.len()],
    preemptions: Counter,
    disk_reads: Counter,
    disk_tokens: Counter,
    disk_bytes: Gauge,
}

type Seconds = Counter<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabel {
    model: String,
    worker: u32,
    stage: &'static str,
}

/// What a worker's engine spends its time on, in the order of [`micros`].
const STAGES: [&str; 6] = ["schedule", "build", "evaluate", "sample", "emit", "idle"];

impl WorkMetrics {
    pub(super) fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            step_seconds: registry.register(
                "worker_step_seconds",
                "Time that a worker's engine has spent on each stage of its steps, and on waiting for work",
                Family::default(),
            ),
            preemptions: registry.register(
                "worker_preemptions",
                "Times that a sequence in a worker had to give up its keys and values so that others could go on",
                Family::default(),
            ),
            disk_reads: registry.register(
                "prefix_disk_reads",
                "Prompts of which a worker read keys and values from disk",
                Family::default(),
            ),
            disk_tokens: registry.register(
                "prefix_disk_tokens",
                "Tokens whose keys and values came from disk, so that they were not computed again",
                Family::default(),
            ),
            disk_bytes: registry.register(
                "prefix_disk_bytes",
                "Bytes of keys and values on disk, which workers share, as a worker's last heartbeat said",
                Family::default(),
            ),
        }
    }

    pub(super) fn of(&self, worker: &WorkerLabel) -> WorkCounters {
        WorkCounters {
            step_seconds: STAGES
                .map(|stage| self.step_seconds.get_or_create_owned(&StageLabel::new(worker, stage))),
            preemptions: self.preemptions.get_or_create_owned(worker),
            disk_reads: self.disk_reads.get_or_create_owned(worker),
            disk_tokens: self.disk_tokens.get_or_create_owned(worker),
            disk_bytes: self.disk_bytes.get_or_create_owned(worker),
        }
    }

    pub(super) fn forget(&self, worker: &WorkerLabel) {
        for stage in STAGES {
            self.step_seconds.remove(&StageLabel::new(worker, stage));
        }
        for family in [&self.preemptions, &self.disk_reads, &self.disk_tokens] {
            family.remove(worker);
        }
        self.disk_bytes.remove(worker);
    }
}

impl WorkCounters {
    /// Counts what one process has done between two heartbeats. What it takes back is its own affair.
    pub(super) fn count(&self, before: &Heartbeat, now: &Heartbeat) {
        for ((seconds, before), now) in
            self.step_seconds.iter().zip(micros(before.time)).zip(micros(now.time))
        {
            seconds.inc_by(now.saturating_sub(before) as f64 / 1e6);
        }
        self.preemptions.inc_by(now.preemptions.saturating_sub(before.preemptions));
        self.disk_reads.inc_by(now.disk.reads.saturating_sub(before.disk.reads));
        self.disk_tokens.inc_by(now.disk.tokens.saturating_sub(before.disk.tokens));
        self.disk_bytes.set(now.disk.bytes.try_into().unwrap_or(i64::MAX));
    }
}

impl StageLabel {
    fn new(worker: &WorkerLabel, stage: &'static str) -> Self {
        Self { model: worker.model.clone(), worker: worker.worker, stage }
    }
}

fn micros(time: StepTime) -> [u64; STAGES.len()] {
    let StepTime { schedule_micros, build_micros, evaluate_micros, sample_micros, emit_micros, idle_micros } =
        time;
    [schedule_micros, build_micros, evaluate_micros, sample_micros, emit_micros, idle_micros]
}
