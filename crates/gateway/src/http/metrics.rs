//! What is measured about HTTP requests.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use crate::metrics::{MetricRegistry, PoolMetrics};

/// The metrics of HTTP requests. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    /// Of streamed answers.
    pub(super) streams: StreamMetrics,
    requests: Family<RequestLabels, Counter>,
}

/// What is measured where streamed answers are written.
#[derive(Clone, Debug)]
pub(super) struct StreamMetrics {
    /// Memory of chunks.
    pub(super) chunks: PoolMetrics,
    /// Streams that were ended because their client did not read.
    pub(super) slow_consumers: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    code: u16,
}

impl HttpMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        let help = "HTTP requests answered, by route and status";
        let requests = registry.register("accept_requests", help, Family::default());
        Self { requests, streams: StreamMetrics::register(registry) }
    }

    /// An answer went out.
    pub(super) fn count_request(&self, route: &str, code: u16) {
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), code }).inc();
    }
}

impl StreamMetrics {
    /// Registers them.
    pub(super) fn register(registry: &mut MetricRegistry) -> Self {
        let help = "Streams that were ended because their client did not read";
        let slow_consumers = registry.register("respond_slow_consumers", help, Counter::default());
        Self { chunks: registry.pool("chunks"), slow_consumers }
    }
}
