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

use crate::metrics::{ByModel, MetricRegistry};

/// The metrics of admission. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    /// Streams of a model that may run at once.
    pub limit: Gauge,
    /// Requests of all models that wait for a permit.
    pub queue_length: Gauge,
    /// Streams of all models that hold a permit.
    pub streams_open: Gauge,
    running: ByModel<Gauge>,
    waiting: ByModel<Gauge>,
    queue_time: ByModel<Histogram>,
    rejections: Family<ReasonLabel, Counter>,
}

/// Counts one request in two gauges, for as long as it is held.
#[derive(Debug)]
pub(super) struct Counted([Gauge; 2]);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl AdmissionMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            rejections: registry.register(
                "admission_rejections",
                "Requests turned away before a stream began",
                Family::default(),
            ),
            limit: registry.register(
                "admission_limit",
                "Streams of a model that may run at once",
                Gauge::default(),
            ),
            running: registry.register_by_model(
                "requests_running",
                "Admitted requests whose answer has not ended",
                Gauge::default,
            ),
            waiting: registry.register_by_model(
                "requests_waiting",
                "Requests waiting to be admitted",
                Gauge::default,
            ),
            queue_time: registry.register_by_model(
                "request_queue_time_seconds",
                "Time admitted requests waited to be admitted",
                // From 0.1 ms to 52 s.
                || Histogram::new(exponential_buckets(0.0001, 2.0, 20)),
            ),
            queue_length: Gauge::default(),
            streams_open: Gauge::default(),
        }
    }

    /// A request was turned away.
    pub(super) fn count_rejection(&self, reason: &'static str) {
        self.rejections.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Where the time is observed that a model's request waited.
    pub(super) fn queue_time(&self, model: &str) -> Histogram {
        self.queue_time.of(model)
    }

    /// A request of the model waits.
    pub(super) fn waits(&self, model: &str) -> Counted {
        Counted::new([self.waiting.of(model), self.queue_length.clone()])
    }

    /// A request of the model runs.
    pub(super) fn runs(&self, model: &str) -> Counted {
        Counted::new([self.running.of(model), self.streams_open.clone()])
    }
}

impl Counted {
    fn new(gauges: [Gauge; 2]) -> Self {
        gauges.iter().for_each(|gauge| {
            gauge.inc();
        });
        Self(gauges)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.iter().for_each(|gauge| {
            gauge.dec();
        });
    }
}
