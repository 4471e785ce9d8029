//! What is measured about workers and the models that they load.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{
    metrics::MetricRegistry,
    worker::{WorkerId, WorkerLabel, WorkerState},
};

/// The metrics of all workers and models. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct FleetMetrics {
    restarts: Family<WorkerLabel, Counter>,
    verifications: Family<VerificationLabels, Counter>,
    states: Family<StateLabels, Gauge>,
    heartbeats: Family<WorkerLabel, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerificationLabels {
    model: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    model: String,
    worker: u32,
    state: &'static str,
}

/// Outcomes of a verification, as their label has them.
const GOOD: &str = "good";
const DAMAGED: &str = "damaged";

/// Seconds between heartbeats. Half a second is what is to be expected; what comes near `workers.heartbeat_timeout_ms`
/// says that the limit is too short for this machine.
const HEARTBEAT_BUCKETS: [f64; 11] = [0.1, 0.25, 0.5, 0.55, 0.6, 0.75, 1.0, 1.5, 2.0, 3.0, 10.0];

impl FleetMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            restarts: registry.register(
                "worker_restarts",
                "Lives of a worker after its first",
                Family::default(),
            ),
            verifications: registry.register(
                "verify_runs",
                "Stored models read whole, by outcome",
                Family::default(),
            ),
            states: registry.register("worker_state", "1 for the state a worker is in", Family::default()),
            heartbeats: registry.register(
                "worker_heartbeat_gap_seconds",
                "Time between two heartbeats of a worker's process",
                Family::new_with_constructor(|| Histogram::new(HEARTBEAT_BUCKETS)),
            ),
        }
    }

    /// A worker is started again.
    pub(super) fn count_restart(&self, worker: &WorkerId) {
        self.restarts.get_or_create(&worker.into()).inc();
    }

    /// A heartbeat came this long after the one before it.
    pub(super) fn observe_heartbeat(&self, worker: &WorkerId, gap: Duration) {
        self.heartbeats.get_or_create(&worker.into()).observe(gap.as_secs_f64());
    }

    /// A stored model was read whole while it served.
    pub(super) fn count_verification(&self, model: &str, good: bool) {
        let outcome = if good { GOOD } else { DAMAGED };
        self.verifications.get_or_create(&VerificationLabels { model: model.to_owned(), outcome }).inc();
    }

    /// A worker is in `state` now.
    pub(super) fn set_worker_state(&self, worker: &WorkerId, state: WorkerState) {
        for other in WorkerState::ALL {
            let gauge = self.states.get_or_create_owned(&StateLabels::new(worker, other));
            gauge.set(i64::from(other == state));
        }
    }

    /// Removes the lines of a worker that is gone for good, or every model that was ever loaded would stay.
    pub(super) fn forget_worker(&self, worker: &WorkerId) {
        self.restarts.remove(&worker.into());
        self.heartbeats.remove(&worker.into());
        for state in WorkerState::ALL {
            self.states.remove(&StateLabels::new(worker, state));
        }
    }

    /// Removes the lines of a model that is unloaded.
    pub(super) fn forget_model(&self, model: &str) {
        for outcome in [GOOD, DAMAGED] {
            self.verifications.remove(&VerificationLabels { model: model.to_owned(), outcome });
        }
    }
}

impl StateLabels {
    fn new(worker: &WorkerId, state: WorkerState) -> Self {
        Self { model: worker.model.to_string(), worker: worker.number as u32, state: state.name() }
    }
}
