//! What is measured of operations.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::{metrics::MetricRegistry, serve::error::ServeError};

/// What is measured of operations. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct OperationMetrics {
    /// Operations that have a place.
    pub running: Gauge,
    /// Operations in the wait queue.
    pub waiting: Gauge,
    results: Family<ResultLabels, Counter>,
    seconds: Family<KindLabel, Histogram, fn() -> Histogram>,
    retries: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    kind: &'static str,
    result: &'static str,
}

impl OperationMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        // From 10 us to 10 s: a short text, and a draft model's tokenizer.
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-5, 4.0, 11));
        Self {
            running: registry.register(
                "operate_running",
                "Operations that are with a worker",
                Gauge::default(),
            ),
            waiting: registry.register(
                "operate_waiting",
                "Operations that wait for a place",
                Gauge::default(),
            ),
            results: registry.register(
                "operate_results",
                "Operations by kind and by what became of them",
                Family::default(),
            ),
            seconds: registry.register(
                "operate_seconds",
                "Time of operations from their arrival to their answer",
                Family::new_with_constructor(seconds),
            ),
            retries: registry.register(
                "operate_retries",
                "Operations that were given to a second worker because the first was lost",
                Counter::default(),
            ),
        }
    }

    /// Counts an operation that has ended.
    pub(super) fn count(&self, kind: &'static str, error: Option<&ServeError>, took: Duration) {
        let result = match error {
            None => "answered",
            Some(ServeError::Rejected(_) | ServeError::OperationRejected(_)) => "rejected",
            Some(ServeError::Unroutable(_) | ServeError::NoModel(_)) => "unroutable",
            Some(ServeError::Failed(_) | ServeError::DeadlinePassed | ServeError::Internal) => "failed",
        };
        self.results.get_or_create(&ResultLabels { kind, result }).inc();
        if error.is_none() {
            self.seconds.get_or_create(&KindLabel { kind }).observe(took.as_secs_f64());
        }
    }

    /// Counts an operation whose first worker was lost.
    pub(super) fn count_retry(&self) {
        self.retries.inc();
    }
}
