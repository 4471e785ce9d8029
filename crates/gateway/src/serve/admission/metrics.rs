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

use crate::{metrics::MetricRegistry, serve::limit::Cause};

/// The metrics of admission. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    /// Requests that wait for a permit.
    pub queue_length: Gauge,
    /// Their tokens, estimated.
    pub queue_tokens: Gauge,
    /// Seconds that admitted requests waited for a permit.
    pub queue_time: Histogram,
    /// Streams that hold a permit.
    pub streams_open: Gauge,
    limit: Family<ModelLabel, Gauge>,
    limit_cuts: Family<CutLabels, Counter>,
    rejections: Family<ReasonLabel, Counter>,
}

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
                "admit_rejections",
                "Requests turned away before a stream began",
                Family::default(),
            ),
            limit: registry.register(
                "admit_limit",
                "Streams of a model that may run at the moment",
                Family::default(),
            ),
            limit_cuts: registry.register(
                "admit_limit_cuts",
                "Times that the limit of a model sank, by cause",
                Family::default(),
            ),
            queue_length: registry.register(
                "admit_queue_length",
                "Requests waiting for a permit",
                Gauge::default(),
            ),
            queue_tokens: registry.register(
                "admit_queue_tokens",
                "Estimated tokens of the requests waiting for a permit",
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

    /// The limit of a model is this.
    pub(super) fn set_limit(&self, model: &str, limit: usize) {
        self.limit.get_or_create(&ModelLabel { model: model.to_owned() }).set(limit as i64);
    }

    /// The limit of a model sank.
    pub(super) fn count_cut(&self, model: &str, cause: Cause) {
        let labels = CutLabels { model: model.to_owned(), cause: name(cause) };
        self.limit_cuts.get_or_create(&labels).inc();
    }

    /// Removes the lines of a model.
    pub(super) fn forget_model(&self, model: &str) {
        self.limit.remove(&ModelLabel { model: model.to_owned() });
        for cause in CAUSES {
            self.limit_cuts.remove(&CutLabels { model: model.to_owned(), cause: name(cause) });
        }
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
