//! What workers have in memory, as they report it.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use protocol::message::{Heartbeat, WorkerMemory};

use super::WorkerLabel;
use crate::metrics::MetricRegistry;

/// The gauges of all workers.
#[derive(Clone, Debug)]
pub(super) struct MemoryMetrics(Family<Label, Gauge>);

/// Those of one worker.
#[derive(Clone, Debug)]
pub(super) struct WorkerGauges([Gauge; KINDS.len()]);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Label {
    model: String,
    worker: u32,
    kind: &'static str,
}

/// What there is, in the order of [`values`].
const KINDS: [&str; 7] =
    ["weights", "kv", "kv_limit", "kept_prefixes", "mlx_active", "mlx_cache", "resident"];

impl MemoryMetrics {
    pub(super) fn register(registry: &mut MetricRegistry) -> Self {
        Self(registry.register(
            "worker_memory_bytes",
            "Bytes that a worker has in memory, by kind, as its last heartbeat said; kinds overlap",
            Family::default(),
        ))
    }

    pub(super) fn of(&self, worker: &WorkerLabel) -> WorkerGauges {
        WorkerGauges(KINDS.map(|kind| self.0.get_or_create_owned(&Label::new(worker, kind))))
    }

    pub(super) fn forget(&self, worker: &WorkerLabel) {
        for kind in KINDS {
            self.0.remove(&Label::new(worker, kind));
        }
    }
}

impl WorkerGauges {
    pub(super) fn set(&self, heartbeat: &Heartbeat) {
        for (gauge, bytes) in self.0.iter().zip(values(heartbeat)) {
            gauge.set(bytes.try_into().unwrap_or(i64::MAX));
        }
    }
}

impl Label {
    fn new(worker: &WorkerLabel, kind: &'static str) -> Self {
        Self { model: worker.model.clone(), worker: worker.worker, kind }
    }
}

fn values(heartbeat: &Heartbeat) -> [u64; KINDS.len()] {
    let WorkerMemory { weights, kv, kv_limit, kept_prefixes, mlx_active, mlx_cache } = heartbeat.memory;
    [weights, kv, kv_limit, kept_prefixes, mlx_active, mlx_cache, heartbeat.memory_bytes]
}
