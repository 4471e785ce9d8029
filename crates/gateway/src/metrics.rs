//! The registry behind `/metrics`. Each module registers what it measures; this one knows none of them.

mod by_model;
mod pool;

use std::fmt;

use prometheus_client::{
    encoding::text,
    metrics::TypedMetric,
    registry::{Metric, Registry},
};

use self::{by_model::Labels, pool::PoolCounters};
pub use self::{
    by_model::{ByModel, ModelLines, OfModel},
    pool::PoolMetrics,
};

/// Every metric of a process, in the order of registration.
#[derive(Debug)]
pub struct MetricRegistry {
    own: Registry,
    /// Under names that others have given.
    foreign: Registry,
    catalogue: Vec<MetricDescription>,
    models: ModelLines,
    /// Of all modules that keep memory for the next use; registered by the first of them.
    pools: Option<PoolCounters>,
}

/// One metric, for a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricDescription {
    /// As it was registered: without [`PREFIX`], and without the `_total` of a counter.
    pub name: &'static str,
    /// Its OpenMetrics type: `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it measures.
    pub help: &'static str,
    /// Another project gave it its name, which is shown as it is.
    pub is_foreign: bool,
}

/// Begins the name of every metric that is not foreign, followed by `_`.
pub const PREFIX: &str = "kr";

impl MetricRegistry {
    /// Without metrics.
    pub fn new() -> Self {
        Self {
            own: Registry::with_prefix(PREFIX),
            foreign: Registry::default(),
            catalogue: Vec::new(),
            models: ModelLines::default(),
            pools: None,
        }
    }

    /// Counts for the memory that `pool` keeps.
    pub fn pool(&mut self, pool: &'static str) -> PoolMetrics {
        let pools = self.pools.take().unwrap_or_else(|| {
            let help =
                "Times that memory was needed which is kept for the next use, and whether it was at hand";
            self.register("pool_requests", help, PoolCounters::default())
        });
        let metrics = PoolMetrics::new(&pools, pool);
        self.pools = Some(pools);
        metrics
    }

    /// Adds `metric` and returns it, for whoever measures.
    pub fn register<M: Metric + TypedMetric + Clone>(
        &mut self,
        name: &'static str,
        help: &'static str,
        metric: M,
    ) -> M {
        self.own.register(name, help, metric.clone());
        self.describe::<M>(name, help, false);
        metric
    }

    /// Adds a metric that each model has for itself; `new` makes a model's. Its lines go when the model does.
    pub fn register_by_model<M: OfModel>(
        &mut self,
        name: &'static str,
        help: &'static str,
        new: fn() -> M,
    ) -> ByModel<M> {
        self.register_labelled(name, help, Labels::OnlyModel, new)
    }

    /// The same for a metric with a second label, of which all values are known.
    pub fn register_by_model_and<M: OfModel>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &'static [&'static str],
        new: fn() -> M,
    ) -> ByModel<M> {
        self.register_labelled(name, help, Labels::And { label, values }, new)
    }

    /// Adds a metric under a name that another project gave it, for programs that know it by that name.
    pub fn register_foreign<M: Metric + TypedMetric + Clone>(
        &mut self,
        name: &'static str,
        help: &'static str,
        metric: M,
    ) -> M {
        self.foreign.register(name, help, metric.clone());
        self.describe::<M>(name, help, true);
        metric
    }

    /// The lines that are about single models, of every metric that is or will be registered.
    pub fn models(&self) -> ModelLines {
        self.models.clone()
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
        text::encode_registry(&mut out, &self.own)?;
        text::encode_registry(&mut out, &self.foreign)?;
        text::encode_eof(&mut out)?;
        Ok(out)
    }

    fn register_labelled<M: OfModel>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels,
        new: fn() -> M,
    ) -> ByModel<M> {
        let metric = ByModel::new(labels, new);
        self.own.register(name, help, metric.family());
        self.describe::<M>(name, help, false);
        self.models.add(metric.clone());
        metric
    }

    fn describe<M: TypedMetric>(&mut self, name: &'static str, help: &'static str, is_foreign: bool) {
        self.catalogue.push(MetricDescription { name, kind: kind::<M>(), help, is_foreign });
    }
}

impl Default for MetricRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricDescription {
    /// The name of its lines in `/metrics`; those of a histogram go on with `_bucket`, `_sum` and `_count`.
    pub fn public_name(&self) -> String {
        let Self { name, kind, .. } = self;
        let suffix = if *kind == "counter" { "_total" } else { "" };
        if self.is_foreign { format!("{name}{suffix}") } else { format!("{PREFIX}_{name}{suffix}") }
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
        let [frames, depth] = registry.catalogue() else { panic!() };
        assert_eq!((frames.public_name().as_str(), frames.help), ("kr_frames_total", "Frames sent"));
        assert_eq!((depth.public_name().as_str(), depth.kind), ("kr_depth", "gauge"));
    }

    #[test]
    fn a_foreign_name_is_shown_as_it_is() {
        let mut registry = MetricRegistry::new();
        registry.register("depth", "Depth", Gauge::<i64>::default());
        let gauge = registry.register_foreign("vllm:depth", "Depth", Gauge::<i64>::default());
        gauge.set(7);
        let text = registry.render().unwrap();
        let end = "# HELP vllm:depth Depth.\n# TYPE vllm:depth gauge\nvllm:depth 7\n# EOF\n";
        assert!(text.ends_with(end) && text.matches("# EOF").count() == 1, "{text}");
        assert_eq!(registry.catalogue()[1].public_name(), "vllm:depth");
    }
}
