//! What is measured of whole requests for text, and of streams that change their worker.

use std::time::Instant;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::event::FinishReason;
use crate::{
    metrics::{ByModel, MetricRegistry, ModelLines},
    worker::loss::Loss,
};

/// The metrics of requests for text. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct ServeMetrics {
    latency: ByModel<Histogram>,
    success: ByModel<Counter>,
    cancellations: ByModel<Counter>,
    migrations: Family<CauseLabel, Counter>,
    lines: ModelLines,
    /// Seconds from the loss of a worker until the stream was open on another.
    pub(super) migration_time: Histogram,
}

/// One request of which the end is still to come. Dropping it before that means that its client has gone.
#[derive(Debug)]
pub(super) struct Unfinished {
    arrived: Instant,
    latency: Histogram,
    stopped: Counter,
    cut: Counter,
    cancelled: Counter,
    ended: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// Reasons, as their label has them.
const STOP: &str = "stop";
const LENGTH: &str = "length";

impl ServeMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            latency: registry.register_by_model(
                "e2e_request_latency_seconds",
                "Time from a request's arrival to the end of its answer",
                // From 10 ms to 11 min.
                || Histogram::new(exponential_buckets(0.01, 2.0, 17)),
            ),
            success: registry.register_by_model_and(
                "request_success",
                "Requests answered to the end, by why it ended",
                "finished_reason",
                &[STOP, LENGTH],
                Counter::default,
            ),
            cancellations: registry.register_by_model(
                "cancellations",
                "Requests whose client went away before the end",
                Counter::default,
            ),
            migrations: migrations(registry),
            lines: registry.models(),
            migration_time: registry.register(
                "migration_seconds",
                "Time from the loss of a worker until the stream was open on another",
                // From 1 ms to 65 s: another worker is ready, or a large model has to be loaded.
                Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            ),
        }
    }

    /// A request for a model that is loaded, or for one of its adapters, which came at `arrived`.
    pub(super) fn begin(&self, model: &str, adapter: Option<&str>, arrived: Instant) -> Unfinished {
        if let Some(adapter) = adapter {
            self.lines.add_adapter(model, adapter);
        }
        let model = adapter.unwrap_or(model);
        Unfinished {
            arrived,
            latency: self.latency.of(model),
            stopped: self.success.of_and(model, STOP),
            cut: self.success.of_and(model, LENGTH),
            cancelled: self.cancellations.of(model),
            ended: false,
        }
    }

    /// A stream goes on with another worker.
    pub(super) fn count_migration(&self, loss: &Loss) {
        self.migrations.get_or_create(&CauseLabel { cause: loss.name() }).inc();
    }
}

/// All causes are shown from the start: the first migration is a change like any other.
fn migrations(registry: &mut MetricRegistry) -> Family<CauseLabel, Counter> {
    let help = "Streams that went on with another worker, by how they lost theirs";
    let migrations = registry.register("migrations", help, Family::<CauseLabel, Counter>::default());
    for cause in Loss::NAMES {
        drop(migrations.get_or_create(&CauseLabel { cause }));
    }
    migrations
}

impl Unfinished {
    /// The answer has come to its end.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        self.ended = true;
        match reason {
            FinishReason::Stop => self.stopped.inc(),
            FinishReason::Length => self.cut.inc(),
        };
        self.latency.observe(self.arrived.elapsed().as_secs_f64());
    }

    /// It ends with an error, which is counted where the client is told.
    pub(super) fn fail(&mut self) {
        self.ended = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.ended {
            self.cancelled.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_request_ends_in_one_way() {
        let mut registry = MetricRegistry::new();
        let metrics = ServeMetrics::register(&mut registry);
        let begin = || metrics.begin("m", None, Instant::now());
        begin().finish(FinishReason::Stop);
        begin().finish(FinishReason::Length);
        begin().finish(FinishReason::Length);
        begin().fail();
        drop(begin());
        let text = registry.render().unwrap();
        for line in [
            "kr_request_success_total{model=\"m\",finished_reason=\"stop\"} 1\n",
            "kr_request_success_total{model=\"m\",finished_reason=\"length\"} 2\n",
            "kr_cancellations_total{model=\"m\"} 1\n",
            "kr_e2e_request_latency_seconds_count{model=\"m\"} 3\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }

    #[test]
    fn an_adapter_has_lines_of_its_own_and_goes_with_its_model() {
        let mut registry = MetricRegistry::new();
        let metrics = ServeMetrics::register(&mut registry);
        metrics.begin("m", Some("m:a"), Instant::now()).finish(FinishReason::Stop);
        metrics.begin("n", Some("n:a"), Instant::now()).finish(FinishReason::Stop);
        assert!(registry.render().unwrap().contains("{model=\"m:a\",finished_reason=\"stop\"} 1\n"));
        registry.models().forget("m");
        let text = registry.render().unwrap();
        assert!(!text.contains("\"m:a\"") && text.contains("\"n:a\""), "{text}");
    }
}
