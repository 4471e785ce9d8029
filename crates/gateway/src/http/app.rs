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
    serve::{Dispatcher, admission::Admission, operation::Operator},
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
    pub(super) dispatcher: Dispatcher,
    pub(super) operator: Operator,
    pub(super) budget: Budget,
    pub(super) origins: Arc<Origins>,
    pub(super) connections: Connections,
    pub(super) max_body_bytes: usize,
    pub(super) body_timeout: Duration,
    pub(super) sse_keepalive: Duration,
    admin_key: Option<AdminKey>,
}

impl App {
    /// Over the models in `registry`, which `models` fills. Its own metrics are in `exposition` already.
    pub fn new(
        config: &Config,
        admission: Admission,
        operator: Operator,
        registry: Arc<ModelRegistry>,
        models: Models,
        metrics: HttpMetrics,
        exposition: Arc<MetricRegistry>,
    ) -> Self {
        let credit = config.stream_registry.credit_chunks;
        Self {
            dispatcher: Dispatcher::new(admission.clone(), Arc::clone(&registry), credit),
            operator,
            admission,
            registry,
            models,
            exposition,
            metrics,
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
