//! Puts the layers together. The only module that knows all of them.

use std::sync::Arc;

use crate::{
    config::Config,
    fleet::{FleetMetrics, ModelRegistry, Models},
    http::{self, App, HttpMetrics, Serving},
    metrics::MetricRegistry,
    serve::{
        Dispatcher, LoadMetrics, OpenLimits, ServeMetrics,
        admission::{Admission, AdmissionMetrics},
        operation::{OperationMetrics, Operator},
    },
    worker::{LaunchError, WorkerLauncher, WorkerMetrics},
};

/// The metrics of all layers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Of HTTP requests.
    pub http: HttpMetrics,
    /// Of requests for text, and of their moves between workers.
    pub serve: ServeMetrics,
    /// For load balancers.
    pub load: LoadMetrics,
    /// Of admission.
    pub admission: AdmissionMetrics,
    /// Of operations.
    pub operations: OperationMetrics,
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
            operations: OperationMetrics::register(registry),
            serve: ServeMetrics::register(registry),
            load: LoadMetrics::register(registry),
            admission: AdmissionMetrics::register(registry),
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
    let Metrics { http, serve, load, admission, operations, fleet, worker } =
        Metrics::register(&mut registry);
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
    let dispatcher = Dispatcher::new(admission.clone(), loader.clone(), Arc::clone(&models), limits, serve);
    let operator =
        Operator::new(admission.clone(), loader.clone(), Arc::clone(&models), config.operations, operations);
    let metrics = http::Metrics { http, load };
    let serving = Serving { admission, dispatcher, operator };
    Ok(App::new(config, serving, models, loader, metrics, Arc::new(registry)))
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
            ("admission_limit", "gauge"),
            ("admission_limit_cuts", "counter"),
            ("admission_queue_tokens", "gauge"),
            ("admission_rejections", "counter"),
            ("batch_flushes", "counter"),
            ("batch_size", "histogram"),
            ("batch_wait_seconds", "histogram"),
            ("cancellations", "counter"),
            ("demand_loads", "counter"),
            ("demand_unloads", "counter"),
            ("draft_tokens", "counter"),
            ("draft_tokens_accepted", "counter"),
            ("e2e_request_latency_seconds", "histogram"),
            ("generation_tokens", "counter"),
            ("http_requests", "counter"),
            ("inter_token_latency_seconds", "histogram"),
            ("ipc_bytes", "counter"),
            ("ipc_frames", "counter"),
            ("ipc_messages", "counter"),
            ("ipc_wakeups", "counter"),
            ("kv_cache_usage_ratio", "gauge"),
            ("migration_seconds", "histogram"),
            ("migrations", "counter"),
            ("operate_results", "counter"),
            ("operate_retries", "counter"),
            ("operate_running", "gauge"),
            ("operate_seconds", "histogram"),
            ("operate_waiting", "gauge"),
            ("pool_requests", "counter"),
            ("prefix_cache_hits", "counter"),
            ("prefix_cache_queries", "counter"),
            ("prefix_disk_bytes", "gauge"),
            ("prefix_disk_reads", "counter"),
            ("prefix_disk_tokens", "counter"),
            ("prompt_tokens", "counter"),
            ("request_errors", "counter"),
            ("request_queue_time_seconds", "histogram"),
            ("request_success", "counter"),
            ("requests_running", "gauge"),
            ("requests_waiting", "gauge"),
            ("slow_consumers", "counter"),
            ("time_to_first_token_seconds", "histogram"),
            ("verify_runs", "counter"),
            ("vllm:kv_cache_usage_perc", "gauge"),
            ("vllm:num_requests_running", "gauge"),
            ("vllm:num_requests_waiting", "gauge"),
            ("worker_heartbeat_gap_seconds", "histogram"),
            ("worker_memory_bytes", "gauge"),
            ("worker_preemptions", "counter"),
            ("worker_restarts", "counter"),
            ("worker_sequences", "gauge"),
            ("worker_state", "gauge"),
            ("worker_step_seconds", "counter"),
        ];
        assert_eq!(found, expected);
        assert!(registry.catalogue().iter().all(|it| !it.help.is_empty()));
    }
}
