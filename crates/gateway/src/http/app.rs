//! What all handlers share.

use std::{sync::Arc, time::Duration};

use axum::http::HeaderMap;

use super::{
    auth::{self, AuthError},
    budget::Budget,
    metrics::HttpMetrics,
    origin::Origins,
};
use crate::{
    config::{AdminKey, Config, Connections},
    fleet::{ModelRegistry, Models},
    metrics::MetricRegistry,
    serve::{Dispatcher, LoadMetrics, ServeMetrics, admission::Admission},
};

/// What handlers share. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct App {
    /// Lets requests in.
    pub admission: Admission,
    /// Knows the models and their workers.
    pub registry: Arc<ModelRegistry>,
    /// Loads and unloads models.
    pub models: Models,
    /// Shows the metrics of all layers.
    pub exposition: Arc<MetricRegistry>,
    pub(super) metrics: HttpMetrics,
    pub(super) load: LoadMetrics,
    pub(super) dispatcher: Dispatcher,
    pub(super) budget: Budget,
    pub(super) origins: Arc<Origins>,
    pub(super) connections: Connections,
    pub(super) max_body_bytes: usize,
    pub(super) body_timeout: Duration,
    pub(super) sse_keepalive: Duration,
    admin_key: Option<AdminKey>,
}

/// What handlers measure.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Of HTTP requests.
    pub http: HttpMetrics,
    /// Of requests for text.
    pub serve: ServeMetrics,
    /// For load balancers.
    pub load: LoadMetrics,
}

impl App {
    /// Over the models in `registry`, which `models` fills. All `metrics` are in `exposition` already.
    pub fn new(
        config: &Config,
        admission: Admission,
        registry: Arc<ModelRegistry>,
        models: Models,
        metrics: Metrics,
        exposition: Arc<MetricRegistry>,
    ) -> Self {
        let credit = config.stream_registry.credit_chunks;
        let Metrics { http, serve, load } = metrics;
        Self {
            dispatcher: Dispatcher::new(admission.clone(), Arc::clone(&registry), credit, serve),
            admission,
            registry,
            models,
            exposition,
            metrics: http,
            load,
            budget: Budget::new(config.server.request_memory),
            origins: Arc::new(Origins::new(&config.server)),
            connections: config.server.connections,
            max_body_bytes: config.server.max_body_bytes,
            body_timeout: config.server.body_timeout,
            sse_keepalive: config.server.sse_keepalive,
            admin_key: config.server.admin_key.clone(),
        }
    }

    /// Checks that a request with these headers is an administrator's.
    pub(super) fn authorize(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        auth::authorize(self.admin_key.as_ref(), headers)
    }

    /// Whether a request with these headers is an administrator's.
    pub(super) fn is_admin(&self, headers: &HeaderMap) -> bool {
        self.authorize(headers).is_ok()
    }
}
