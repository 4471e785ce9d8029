//! What workers do, as they count it from the start of each process.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use protocol::message::{Heartbeat, StepTime};

use super::WorkerLabel;
use crate::metrics::MetricRegistry;

/// The counters of all workers.
#[derive(Clone, Debug)]
pub(super) struct WorkMetrics {
    step_seconds: Family<StageLabel, Seconds>,
}

/// Those of one worker, over all its processes.
#[derive(Clone, Debug)]
pub(super) struct WorkCounters {
    /// In the order of [`STAGES`].
    step_seconds: [Seconds; STAGES.len()],
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
        }
    }

    pub(super) fn of(&self, worker: &WorkerLabel) -> WorkCounters {
        WorkCounters {
            step_seconds: STAGES
                .map(|stage| self.step_seconds.get_or_create_owned(&StageLabel::new(worker, stage))),
        }
    }

    pub(super) fn forget(&self, worker: &WorkerLabel) {
        for stage in STAGES {
            self.step_seconds.remove(&StageLabel::new(worker, stage));
        }
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
