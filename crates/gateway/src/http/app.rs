//! What all handlers share.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use tokio::sync::watch;

use super::{
    auth::{Access, AuthError},
    budget::Budget,
    metrics::HttpMetrics,
    origin::Origins,
    throttle::Throttle,
};
use crate::{
    config::{Config, Connections, Server, Tls},
    fleet::{ModelRegistry, Models},
    metrics::MetricRegistry,
    serve::{Caller, Dispatcher, admission::Admission},
};

/// What handlers share. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct App {
    /// Lets requests in.
    pub admission: Admission,
    /// Knows the models and their workers.
    pub registry: Arc<ModelRegistry>,
    /// Loads and unloads models, and restarts workers.
    pub models: Models,
    /// Shows the metrics of all layers.
    pub exposition: Arc<MetricRegistry>,
    pub(super) metrics: HttpMetrics,
    pub(super) dispatcher: Dispatcher,
    pub(super) budget: Budget,
    /// For the log.
    pub(super) refusals: Throttle,
    pub(super) origins: Arc<ArcSwap<Origins>>,
    rules: Arc<ArcSwap<Rules>>,
    /// Whether an administrator asked for an orderly end.
    stop: Arc<watch::Sender<bool>>,
}

/// What can change while requests are answered: each request follows the rules of its moment.
#[derive(Debug)]
struct Rules {
    server: Server,
    access: Access,
}

impl Rules {
    fn new(server: &Server) -> Self {
        Self { access: Access::new(server), server: server.clone() }
    }
}

impl App {
    /// Over the models in `registry`, which `models` fills. Its own metrics are in `exposition` already.
    pub fn new(
        config: &Config,
        admission: Admission,
        dispatcher: Dispatcher,
        registry: Arc<ModelRegistry>,
        models: Models,
        metrics: HttpMetrics,
        exposition: Arc<MetricRegistry>,
    ) -> Self {
        Self {
            admission,
            dispatcher,
            registry,
            models,
            exposition,
            metrics,
            budget: Budget::new(config.server.request_memory),
            refusals: Throttle::default(),
            origins: Arc::new(ArcSwap::from_pointee(Origins::new(&config.server))),
            rules: Arc::new(ArcSwap::from_pointee(Rules::new(&config.server))),
            stop: Arc::default(),
        }
    }

    /// Returns once an administrator has asked for an orderly end.
    pub async fn stop_requested(&self) {
        // It can't fail: the sender is this application's.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// An administrator asks for an orderly end.
    pub(super) fn request_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Follows another configuration from now on, as far as that can change.
    pub fn reconfigure(&self, config: &Config) {
        self.budget.set_limit(config.server.request_memory);
        self.origins.store(Arc::new(Origins::new(&config.server)));
        self.rules.store(Arc::new(Rules::new(&config.server)));
        self.admission.configure(config.stream_registry, config.rate_limits);
        self.models.set_max_loaded(config.max_loaded);
    }

    /// How long streams may go on after a signal to stop.
    pub fn drain_timeout(&self) -> Duration {
        self.rules.load().server.drain_timeout
    }

    /// Who sent a request with these headers.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        self.rules.load().access.authenticate(headers)
    }

    /// Checks that a request with these headers is an administrator's.
    pub(super) fn authorize(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        self.rules.load().access.authorize(headers)
    }

    /// Whether a request with these headers is an administrator's.
    pub(super) fn is_admin(&self, headers: &HeaderMap) -> bool {
        self.authorize(headers).is_ok()
    }

    /// Limits of a connection that is accepted now.
    pub(super) fn connections(&self) -> Connections {
        self.rules.load().server.connections
    }

    /// What a connection that is accepted now is served with over TLS; `None`: HTTP.
    pub(super) fn tls(&self) -> Option<Tls> {
        self.rules.load().server.tls.clone()
    }

    /// Largest body in bytes.
    pub(super) fn max_body_bytes(&self) -> usize {
        self.rules.load().server.max_body_bytes
    }

    /// For a whole body to arrive.
    pub(super) fn body_timeout(&self) -> Duration {
        self.rules.load().server.body_timeout
    }

    /// Longest silence of a stream.
    pub(super) fn sse_keepalive(&self) -> Duration {
        self.rules.load().server.sse_keepalive
    }
}
