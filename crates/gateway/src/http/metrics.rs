//! What is measured about HTTP requests.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::error::ErrorReport;
use crate::metrics::{MetricRegistry, PoolMetrics};

/// The metrics of HTTP requests. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    /// Memory of the chunks of streamed answers.
    pub(super) chunks: PoolMetrics,
    /// Streams that were ended because their client did not read.
    pub(super) slow_consumers: Counter,
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
}

/// Routes are those of the router, and all others together.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    code: u16,
}

/// Codes are those of the table of errors.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    code: &'static str,
}

impl HttpMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        let requests = "HTTP requests answered, by route and status";
        let errors = "Requests that ended in an error, in the answer or in an event of it, by its code";
        let slow_consumers = "Streams that were ended because their client did not read";
        Self {
            chunks: registry.pool("chunks"),
            slow_consumers: registry.register("slow_consumers", slow_consumers, Counter::default()),
            requests: registry.register("http_requests", requests, Family::default()),
            errors: registry.register("request_errors", errors, Family::default()),
        }
    }

    /// An answer went out.
    pub(super) fn count_request(&self, route: &str, code: u16) {
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), code }).inc();
    }

    /// A client is told of an error.
    pub(super) fn count_error(&self, report: &ErrorReport) {
        // Errors of other layers, such as HTTP's own, have only a status.
        if let Some(code) = report.code {
            self.errors.get_or_create(&ErrorLabels { code }).inc();
        }
    }
}
