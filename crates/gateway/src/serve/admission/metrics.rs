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

use crate::{
    metrics::{ByModel, MetricRegistry},
    serve::limit::Cause,
};

/// The metrics of admission. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    /// Requests of all models that wait for a permit.
    pub queue_length: Gauge,
    /// Their tokens, estimated.
    pub queue_tokens: Gauge,
    /// Streams of all models that hold a permit.
    pub streams_open: Gauge,
    running: ByModel<Gauge>,
    waiting: ByModel<Gauge>,
    queue_time: ByModel<Histogram>,
    limit: Family<ModelLabel, Gauge>,
    limit_cuts: Family<CutLabels, Counter>,
    rejections: Family<ReasonLabel, Counter>,
}

/// Counts one request in a gauge, for as long as it is held.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// A model that is or was loaded: a client's word is never a label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CutLabels {
    model: String,
    cause: &'static str,
}

const CAUSES: [Cause; 4] = [Cause::FirstToken, Cause::Kv, Cause::WorkerQueue, Cause::Memory];

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
                "Streams of a model that may run at the moment",
                Family::default(),
            ),
            limit_cuts: registry.register(
                "admission_limit_cuts",
                "Times that the limit of a model sank, by cause",
                Family::default(),
            ),
            queue_tokens: registry.register(
                "admission_queue_tokens",
                "Estimated tokens of the requests waiting for a permit",
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
        Counted::new(self.waiting.of(model))
    }

    /// A request of the model runs.
    pub(super) fn runs(&self, model: &str) -> Counted {
        Counted::new(self.running.of(model))
    }

    /// The limit of a model is this.
    pub(super) fn set_limit(&self, model: &str, limit: usize) {
        self.limit.get_or_create(&ModelLabel { model: model.to_owned() }).set(limit as i64);
    }

    /// The limit of a model sank.
    pub(super) fn count_cut(&self, model: &str, cause: Cause) {
        let labels = CutLabels { model: model.to_owned(), cause: name(cause) };
        self.limit_cuts.get_or_create(&labels).inc();
    }

    /// Removes the lines of a model that has nobody here.
    pub(super) fn forget_model(&self, model: &str) {
        self.limit.remove(&ModelLabel { model: model.to_owned() });
        for cause in CAUSES {
            self.limit_cuts.remove(&CutLabels { model: model.to_owned(), cause: name(cause) });
        }
        self.running.forget(model);
        self.waiting.forget(model);
        self.queue_time.forget(model);
    }
}

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn name(cause: Cause) -> &'static str {
    match cause {
        Cause::FirstToken => "first_token",
        Cause::Kv => "kv",
        Cause::WorkerQueue => "worker_queue",
        Cause::Memory => "memory",
    }
}
