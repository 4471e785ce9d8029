//! Metrics that each model has for itself. All of them lose a model's lines together, when the model goes: otherwise
//! every model that was ever loaded would be in `/metrics` for good.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
    metrics::{TypedMetric, family::Family},
    registry::Metric,
};

/// What a metric can be that each model has for itself.
pub trait OfModel: Metric + TypedMetric + Clone {}

impl<M: Metric + TypedMetric + Clone> OfModel for M {}

/// A metric that each model has for itself. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct ByModel<M> {
    family: Family<Line, M, fn() -> M>,
    labels: Labels,
}

/// The labels of a metric that each model has for itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Labels {
    /// `model`.
    OnlyModel,
    /// `model`, and another one that has these values and no others.
    And { label: &'static str, values: &'static [&'static str] },
}

/// The labels of one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Line {
    model: String,
    more: Option<(&'static str, &'static str)>,
}

/// The lines about single models, of all metrics. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct ModelLines {
    metrics: Arc<Mutex<Vec<Box<dyn Forget>>>>,
    /// By model the names under which its adapters have lines.
    adapters: Arc<Mutex<HashMap<String, BTreeSet<String>>>>,
}

/// Of a metric, as far as [`ModelLines`] is concerned.
trait Forget: Send {
    fn forget(&self, model: &str);
}

impl<M: OfModel> ByModel<M> {
    pub(super) fn new(labels: Labels, new: fn() -> M) -> Self {
        Self { family: Family::new_with_constructor(new), labels }
    }

    pub(super) fn family(&self) -> Family<Line, M, fn() -> M> {
        self.family.clone()
    }

    /// The model's own. To be asked for when a request begins and kept until it ends: what is measured after the model
    /// has gone is then shown nowhere.
    pub fn of(&self, model: &str) -> M {
        debug_assert!(matches!(self.labels, Labels::OnlyModel), "it has another label");
        self.family.get_or_create_owned(&Line { model: model.to_owned(), more: None })
    }

    /// The model's own with this value of the second label, which must be one of those it was registered with.
    pub fn of_and(&self, model: &str, value: &'static str) -> M {
        let more = match self.labels {
            Labels::And { label, values } => {
                debug_assert!(values.contains(&value), "{value:?} is not one of {values:?}");
                Some((label, value))
            }
            Labels::OnlyModel => None,
        };
        self.family.get_or_create_owned(&Line { model: model.to_owned(), more })
    }

    /// Removes the model's lines.
    pub fn forget(&self, model: &str) {
        let line = |more| Line { model: model.to_owned(), more };
        match self.labels {
            Labels::OnlyModel => {
                self.family.remove(&line(None));
            }
            Labels::And { label, values } => values.iter().for_each(|value| {
                self.family.remove(&line(Some((label, value))));
            }),
        }
    }
}

impl<M: OfModel> Forget for ByModel<M> {
    fn forget(&self, model: &str) {
        Self::forget(self, model);
    }
}

impl ModelLines {
    pub(super) fn add<M: OfModel>(&self, metric: ByModel<M>) {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(metric));
    }

    /// There may be lines with the name of one of the model's adapters.
    pub fn add_adapter(&self, model: &str, adapter: &str) {
        let mut adapters = self.adapters.lock().unwrap_or_else(PoisonError::into_inner);
        let of_model = adapters.entry(model.to_owned()).or_default();
        if !of_model.contains(adapter) {
            of_model.insert(adapter.to_owned());
        }
    }

    /// Removes the lines of a model that has gone, and those of its adapters.
    pub fn forget(&self, model: &str) {
        let adapters = self.adapters.lock().unwrap_or_else(PoisonError::into_inner).remove(model);
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for name in adapters.iter().flatten().map(String::as_str).chain([model]) {
            metrics.iter().for_each(|metric| metric.forget(name));
        }
    }
}

impl fmt::Debug for ModelLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelLines").finish_non_exhaustive()
    }
}

impl EncodeLabelSet for Line {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        ("model", self.model.as_str()).encode(encoder.encode_label())?;
        match self.more {
            Some(more) => more.encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use prometheus_client::metrics::counter::Counter;

    use crate::metrics::MetricRegistry;

    #[test]
    fn a_models_lines_go_with_it_and_no_others() {
        let mut registry = MetricRegistry::new();
        let lines = registry.models();
        let tokens = registry.register_by_model("tokens", "Tokens", Counter::<u64>::default);
        let ends = registry.register_by_model_and(
            "ends",
            "Ends",
            "why",
            &["stop", "length"],
            Counter::<u64>::default,
        );
        for model in ["a", "b"] {
            tokens.of(model).inc_by(3);
            ends.of_and(model, "stop").inc();
            ends.of_and(model, "length").inc_by(2);
        }
        let text = registry.render().unwrap();
        assert!(text.contains("kr_tokens_total{model=\"a\"} 3\n"), "{text}");
        assert!(text.contains("kr_ends_total{model=\"b\",why=\"length\"} 2\n"), "{text}");
        let kept = tokens.of("a");
        lines.forget("a");
        kept.inc();
        let text = registry.render().unwrap();
        assert!(!text.contains("\"a\""), "{text}");
        assert_eq!(text.matches("model=\"b\"").count(), 3, "{text}");
    }
}
