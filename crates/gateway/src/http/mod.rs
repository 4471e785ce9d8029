//! Stages *accept* and *respond*: OpenAI's HTTP interface.
//!
//! ```text
//! body ─ fields ─► Checked ─ admit ─► Permit ─ route ─► Link ─ open ─► Stream
//!                                                                        │ Admitted: headers go out
//!                                       one JSON object, or sse ◄────────┘ which owns the Permit
//! ```

mod admin;
mod body;
mod budget;
mod chat;
mod completions;
mod error;
mod fields;
mod generation;
mod health;
mod metrics;
mod models;
mod origin;
mod request_id;
pub mod server;
mod sse;
mod unread;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router as Routes,
    extract::{MatchedPath, Request, State},
    http::{Method, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use protocol::ids::RequestId;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument, debug, info_span};

use self::{budget::Budget, chat::Chat, completions::Completion, origin::Origins};
use crate::{
    config::{AdminKey, Config, Connections},
    fleet::{ModelRegistry, Models},
    metrics::MetricRegistry,
    serve::admission::Admission,
};

pub use self::{
    error::{ApiError, ErrorBody},
    metrics::HttpMetrics,
};

/// What handlers share. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct App {
    /// Lets requests in.
    pub admission: Admission,
    /// Knows the models and their workers.
    pub router: Arc<ModelRegistry>,
    /// Loads and unloads models.
    pub models: Models,
    /// Shows the metrics of all layers.
    pub exposition: Arc<MetricRegistry>,
    metrics: HttpMetrics,
    max_body_bytes: usize,
    credit_chunks: u32,
    admin_key: Option<AdminKey>,
    connections: Connections,
    body_timeout: Duration,
    sse_keepalive: Duration,
    budget: Budget,
    origins: Arc<Origins>,
    last_id: Arc<AtomicU64>,
}

impl App {
    /// Over the models in `router`, which `models` fills. Its own metrics are in `exposition` already.
    pub fn new(
        config: &Config,
        admission: Admission,
        router: Arc<ModelRegistry>,
        models: Models,
        metrics: HttpMetrics,
        exposition: Arc<MetricRegistry>,
    ) -> Self {
        Self {
            admission,
            router,
            models,
            exposition,
            metrics,
            max_body_bytes: config.server.max_body_bytes,
            credit_chunks: config.stream_registry.credit_chunks,
            admin_key: config.server.admin_key.clone(),
            connections: config.server.connections,
            body_timeout: config.server.body_timeout,
            sse_keepalive: config.server.sse_keepalive,
            budget: Budget::new(config.server.request_memory),
            origins: Arc::new(Origins::new(&config.server)),
            last_id: Arc::default(),
        }
    }

    fn next_id(&self) -> RequestId {
        RequestId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// All routes.
pub fn routes(app: App) -> Routes {
    Routes::new()
        .route("/v1/chat/completions", post(generation::create::<Chat>))
        .route("/v1/completions", post(generation::create::<Completion>))
        .route("/v1/models", get(models::list))
        // Names may have slashes, like `organization/model`.
        .route("/v1/models/{*id}", any(models::one))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(async |uri: Uri| ApiError::UnknownPath(uri.path().to_owned()))
        .method_not_allowed_fallback(async |method: Method| ApiError::Method(method))
        .layer(CatchPanicLayer::custom(|_| ApiError::Internal.into_response()))
        .layer(middleware::from_fn_with_state(app.clone(), origin::guard))
        .layer(middleware::from_fn(unread::settle))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// Counts and traces what was answered; the body may still be on its way then.
async fn observe(
    State(app): State<App>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    // Unknown paths share a label: clients must not be able to make metrics.
    let route = path.as_ref().map_or("unknown", MatchedPath::as_str);
    let name = request_id::of(request.headers());
    let span = info_span!("accept", method = %request.method(), route, request_id = name.0);
    request.extensions_mut().insert(name.clone());
    let response = next.run(request).instrument(span.clone()).await;
    let response = request_id::name(response, &name).await;
    let code = response.status().as_u16();
    span.in_scope(|| debug!(code, "answered"));
    app.metrics.count_request(route, code);
    response
}
