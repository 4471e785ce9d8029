//! The registry behind `/metrics`. Each module registers what it measures; this one knows none of them.

use std::fmt;

use prometheus_client::{
    encoding::text,
    metrics::TypedMetric,
    registry::{Metric, Registry},
};

/// Every metric of a process, in the order of registration.
#[derive(Debug)]
pub struct MetricRegistry {
    registry: Registry,
    catalogue: Vec<MetricDescription>,
}

/// One metric, for a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricDescription {
    /// Its name without [`PREFIX`]. `/metrics` appends `_total` to that of a counter.
    pub name: &'static str,
    /// Its OpenMetrics type: `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it measures.
    pub help: &'static str,
}

/// Begins every metric's name, followed by `_`.
pub const PREFIX: &str = "kr";

impl MetricRegistry {
    /// Without metrics.
    pub fn new() -> Self {
        Self { registry: Registry::with_prefix(PREFIX), catalogue: Vec::new() }
    }

    /// Adds `metric` and returns it, for whoever measures. A metric's stem is the verb of the stage that measures it.
    pub fn register<M: Metric + TypedMetric + Clone>(
        &mut self,
        name: &'static str,
        help: &'static str,
        metric: M,
    ) -> M {
        self.registry.register(name, help, metric.clone());
        self.catalogue.push(MetricDescription { name, kind: kind::<M>(), help });
        metric
    }

    /// All metrics, also those that have no value yet and that [`MetricRegistry::render`] therefore leaves out.
    pub fn catalogue(&self) -> &[MetricDescription] {
        &self.catalogue
    }

    /// The current values in the OpenMetrics text format.
    ///
    /// # Errors
    /// A metric could not be formatted.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl Default for MetricRegistry {
    fn default() -> Self {
        Self::new()
    }
}

/// The name of the metric's type: the library keeps its own to the lifetime of a value.
fn kind<M: TypedMetric>() -> &'static str {
    use prometheus_client::metrics::MetricType;
    match M::TYPE {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        MetricType::Info => "info",
        MetricType::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

    use super::*;

    #[test]
    fn what_is_registered_is_shown_and_described() {
        let mut registry = MetricRegistry::new();
        let frames = registry.register("frames", "Frames sent", Counter::<u64>::default());
        registry.register("depth", "Depth of a queue", Family::<Vec<(String, String)>, Gauge>::default());
        frames.inc_by(3);
        let text = registry.render().unwrap();
        assert!(text.contains("# HELP kr_frames Frames sent.\n"), "{text}");
        assert!(text.contains("# TYPE kr_frames counter\nkr_frames_total 3\n"), "{text}");
        assert!(!text.contains("kr_depth"), "it has no value yet: {text}");
        let frames = MetricDescription { name: "frames", kind: "counter", help: "Frames sent" };
        let depth = MetricDescription { name: "depth", kind: "gauge", help: "Depth of a queue" };
        assert_eq!(registry.catalogue(), [frames, depth]);
    }
}
