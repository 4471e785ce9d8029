//! Puts the layers together. The only module that knows all of them.

use std::sync::Arc;

use crate::{
    config::Config,
    fleet::{FleetMetrics, ModelRegistry, Models},
    http::{App, HttpMetrics},
    metrics::MetricRegistry,
    serve::{
        Dispatcher, OpenLimits, ServeMetrics,
        admission::{Admission, AdmissionMetrics},
    },
    worker::{LaunchError, WorkerLauncher, WorkerMetrics},
};

/// The metrics of all layers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Of HTTP requests.
    pub http: HttpMetrics,
    /// Of admission.
    pub admission: AdmissionMetrics,
    /// Of streams that change their worker.
    pub serve: ServeMetrics,
    /// Of workers and the models that they load.
    pub fleet: FleetMetrics,
    /// Of the links to workers and of the streams over them.
    pub worker: WorkerMetrics,
}

impl Metrics {
    /// Registers every metric that `/metrics` has. [`MetricRegistry::catalogue`] then describes them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            http: HttpMetrics::register(registry),
            admission: AdmissionMetrics::register(registry),
            serve: ServeMetrics::register(registry),
            worker: WorkerMetrics::register(registry),
            fleet: FleetMetrics::register(registry),
        }
    }
}

/// A gateway without models: [`App::models`] loads them. Needs a runtime.
///
/// # Errors
/// No worker can be started here.
pub fn assemble(config: &Config) -> Result<App, LaunchError> {
    let mut registry = MetricRegistry::new();
    let Metrics { http, admission, serve, fleet, worker } = Metrics::register(&mut registry);
    let models = Arc::new(ModelRegistry::default());
    let launcher = WorkerLauncher::new(config, worker)?;
    let loader = Models::new(launcher, Arc::clone(&models), fleet);
    let admission = Admission::new(config.stream_registry, admission);
    admission.configure(config.stream_registry, config.rate_limits);
    tokio::spawn(admission.watch(Arc::clone(&models)));
    let limits = OpenLimits {
        credit_chunks: config.stream_registry.credit_chunks,
        recovery_wait: config.workers.recovery_timeout,
    };
    let dispatcher = Dispatcher::new(admission.clone(), Arc::clone(&models), limits, serve);
    Ok(App::new(config, admission, dispatcher, models, loader, http, Arc::new(registry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards and alerts depend on names and types: change them only with a note in the changelog.
    #[test]
    fn every_metric_is_registered_once_under_its_public_name() {
        let mut registry = MetricRegistry::new();
        Metrics::register(&mut registry);
        let mut found: Vec<_> = registry.catalogue().iter().map(|it| (it.name, it.kind)).collect();
        found.sort_unstable();
        let expected = [
            ("accept_requests", "counter"),
            ("admit_limit", "gauge"),
            ("admit_limit_cuts", "counter"),
            ("admit_queue_length", "gauge"),
            ("admit_queue_tokens", "gauge"),
            ("admit_rejections", "counter"),
            ("bells", "counter"),
            ("deliver_frames", "counter"),
            ("deliver_messages", "counter"),
            ("inter_token_latency_seconds", "histogram"),
            ("migration_seconds", "histogram"),
            ("migrations", "counter"),
            ("pool_requests", "counter"),
            ("queue_time_seconds", "histogram"),
            ("respond_slow_consumers", "counter"),
            ("ship_frames", "counter"),
            ("ship_messages", "counter"),
            ("streams_open", "gauge"),
            ("time_to_first_token_seconds", "histogram"),
            ("tokens_in", "counter"),
            ("tokens_out", "counter"),
            ("verify_runs", "counter"),
            ("worker_heartbeat_gap_seconds", "histogram"),
            ("worker_restarts", "counter"),
            ("worker_state", "gauge"),
        ];
        assert_eq!(found, expected);
        assert!(registry.catalogue().iter().all(|it| !it.help.is_empty()));
    }
}
