//! The registry behind `/metrics`. Each module registers what it measures; this one knows none of them.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{TypedMetric, counter::Counter, family::Family},
    registry::{Metric, Registry},
};

/// Every metric of a process, in the order of registration.
#[derive(Debug)]
pub struct MetricRegistry {
    registry: Registry,
    catalogue: Vec<MetricDescription>,
    /// Of all modules that keep memory for the next use; registered by the first of them.
    pools: Option<Family<PoolLabels, Counter>>,
}

/// How often memory that is kept for the next use was at hand when it was needed.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    reused: Counter,
    allocated: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolLabels {
    pool: &'static str,
    outcome: &'static str,
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
        Self { registry: Registry::with_prefix(PREFIX), catalogue: Vec::new(), pools: None }
    }

    /// Counts for the memory that `pool` keeps.
    pub fn pool(&mut self, pool: &'static str) -> PoolMetrics {
        let pools = self.pools.take().unwrap_or_else(|| {
            let help =
                "Times that memory was needed which is kept for the next use, and whether it was at hand";
            self.register("pool_requests", help, Family::default())
        });
        let count = |outcome| pools.get_or_create_owned(&PoolLabels { pool, outcome });
        let metrics = PoolMetrics { reused: count("reused"), allocated: count("allocated") };
        self.pools = Some(pools);
        metrics
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

impl PoolMetrics {
    /// Memory was needed, and it was at hand or had to be allocated.
    pub fn count(&self, reused: bool) {
        if reused {
            self.reused.inc()
        } else {
            self.allocated.inc()
        };
    }

    /// Times that it was at hand.
    pub fn reused(&self) -> u64 {
        self.reused.get()
    }

    /// Times that it had to be allocated.
    pub fn allocated(&self) -> u64 {
        self.allocated.get()
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

    #[test]
    fn pools_share_a_metric_and_have_a_label_each() {
        let mut registry = MetricRegistry::new();
        let (one, two) = (registry.pool("one"), registry.pool("two"));
        [true, true, false].into_iter().for_each(|reused| one.count(reused));
        two.count(true);
        let text = registry.render().unwrap();
        for (pool, outcome, count) in [("one", "reused", 2), ("one", "allocated", 1), ("two", "reused", 1)] {
            let line = format!("kr_pool_requests_total{{pool=\"{pool}\",outcome=\"{outcome}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert_eq!(registry.catalogue().len(), 1);
    }
}
