//! What is measured of streams that change their worker.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::{metrics::MetricRegistry, worker::loss::Loss};

/// The metrics of migration. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct ServeMetrics {
    migrations: Family<CauseLabel, Counter>,
    /// Seconds from the loss of a worker until the stream was open on another.
    pub(super) migration_time: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

impl ServeMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            migrations: registry.register(
                "migrations",
                "Streams that went on with another worker, by how they lost theirs",
                Family::default(),
            ),
            migration_time: registry.register(
                "migration_seconds",
                "Time from the loss of a worker until the stream was open on another",
                // From 1 ms to 65 s: another worker is ready, or a large model has to be loaded.
                Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            ),
        }
    }

    pub(super) fn count_migration(&self, loss: &Loss) {
        self.migrations.get_or_create(&CauseLabel { cause: loss.name() }).inc();
    }
}
