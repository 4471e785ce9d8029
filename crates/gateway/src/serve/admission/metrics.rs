//! What is measured at admission.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::metrics::MetricRegistry;

/// The metrics of admission. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    /// Streams that may run at once.
    pub limit: Gauge,
    /// Requests that wait for a permit.
    pub queue_length: Gauge,
    /// Seconds that admitted requests waited for a permit.
    pub queue_time: Histogram,
    /// Streams that hold a permit.
    pub streams_open: Gauge,
    rejections: Family<ReasonLabel, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl AdmissionMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            rejections: registry.register(
                "admit_rejections",
                "Requests turned away before a stream began",
                Family::default(),
            ),
            limit: registry.register("admit_limit", "Streams that may run at once", Gauge::default()),
            queue_length: registry.register(
                "admit_queue_length",
                "Requests waiting for a permit",
                Gauge::default(),
            ),
            queue_time: registry.register(
                "queue_time_seconds",
                "Time admitted requests waited for a permit",
                // From 0.1 ms to 52 s.
                Histogram::new(exponential_buckets(0.0001, 2.0, 20)),
            ),
            streams_open: registry.register("streams_open", "Streams that hold a permit", Gauge::default()),
        }
    }

    /// A request was turned away.
    pub(super) fn count_rejection(&self, reason: &'static str) {
        self.rejections.get_or_create(&ReasonLabel { reason }).inc();
    }
}
