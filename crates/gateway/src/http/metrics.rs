//! What is measured about HTTP requests.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use crate::metrics::MetricRegistry;

/// The metrics of HTTP requests. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
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
        Self { requests: registry.register("accept_requests", help, Family::default()) }
    }

    /// An answer went out.
    pub(super) fn count_request(&self, route: &str, code: u16) {
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), code }).inc();
    }
}
