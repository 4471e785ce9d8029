//! What is measured about HTTP requests.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::error::ErrorReport;
use crate::metrics::MetricRegistry;

/// The metrics of HTTP requests. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
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
        Self {
            requests: registry.register(
                "http_requests",
                "HTTP requests answered, by route and status",
                Family::default(),
            ),
            errors: registry.register(
                "request_errors",
                "Requests that ended in an error, in the answer or in an event of it, by its code",
                Family::default(),
            ),
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
