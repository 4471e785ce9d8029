//! All routes, and what every request passes on its way to one.

use std::{collections::HashMap, sync::Arc, time::Instant};

use axum::{
    Router as Routes,
    extract::{MatchedPath, Request, State},
    http::{Method, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{
    Instrument, Span,
    field::{Empty, display},
    info_span,
};

use super::{
    access, admin,
    app::App,
    dialect::Api,
    error::{ApiError, ErrorReport, ErrorWriter},
    guard, health, openai, origin,
    request_id::{self, RequestId},
    trace_context, unread,
};
use crate::{serve::TraceContext, trace::REQUEST};

/// The dialects.
const DIALECTS: &[fn() -> Api] = &[openai::api];

/// For machines that watch. They are answered also when the server has no place for anything else.
pub(super) const PROBES: [&str; 4] = ["/livez", "/readyz", "/health", "/metrics"];

/// For errors outside of every dialect's paths.
pub(super) const WRITE_ERROR: ErrorWriter = openai::write_error;

/// What [`observe`] needs to know.
#[derive(Clone)]
struct Observer {
    app: App,
    /// By route. Others use [`WRITE_ERROR`].
    write_error: Arc<HashMap<&'static str, ErrorWriter>>,
}

/// All routes.
pub fn routes(app: App) -> Routes {
    let mut routes = Routes::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics));
    for (path, handler) in admin::routes() {
        routes = routes.route(path, handler);
    }
    let mut write_error = HashMap::new();
    for dialect in DIALECTS {
        let api = dialect();
        for (path, handler) in api.routes {
            routes = routes.route(path, handler);
            write_error.insert(path, api.write_error);
        }
    }
    let observer = Observer { app: app.clone(), write_error: Arc::new(write_error) };
    routes
        .fallback(async |uri: Uri| ApiError::UnknownPath(uri.path().to_owned()))
        .method_not_allowed_fallback(async |method: Method| ApiError::Method(method))
        .layer(CatchPanicLayer::custom(|_| ApiError::Internal.into_response()))
        .layer(middleware::from_fn_with_state(app.clone(), guard::authenticate))
        .layer(middleware::from_fn_with_state(Arc::clone(&app.origins), origin::guard))
        .layer(middleware::from_fn(unread::settle))
        .layer(middleware::from_fn_with_state(observer, observe))
        .with_state(app)
}

/// Counts and traces what was answered, and writes errors; the body may still be on its way then.
async fn observe(
    State(Observer { app, write_error }): State<Observer>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    // Unknown paths share a label: clients must not be able to make metrics.
    let route = path.as_ref().map_or("unknown", MatchedPath::as_str);
    let write_error = write_error.get(route).copied().unwrap_or(WRITE_ERROR);
    let (id, began) = (request_id::of(request.headers()), Instant::now());
    let (span, trace) = accept(&request, route, &id);
    request.extensions_mut().insert(id.clone());
    if let Some(trace) = trace {
        request.extensions_mut().insert(trace);
    }
    let response = next.run(request).instrument(span.clone()).await;
    if let Some(report) = response.extensions().get::<ErrorReport>() {
        app.metrics.count_error(report);
    }
    let response = request_id::finish(response, &id, write_error).await;
    app.metrics.count_request(route, response.status().as_u16());
    access::log(response, span, began)
}

/// The request's span, in its client's trace or one of its own, and what its worker needs to know of the trace.
fn accept(request: &Request, route: &str, RequestId(id): &RequestId) -> (Span, Option<TraceContext>) {
    let method = request.method();
    if PROBES.contains(&route) {
        // Every few seconds: they would hide all others.
        return (info_span!("accept", %method, route, request_id = id), None);
    }
    let span = info_span!(target: REQUEST, "accept", %method, route, request_id = id, trace_id = Empty);
    let parent = trace_context::parent(request.headers());
    if let Some(parent) = &parent {
        telemetry::adopt(&span, parent, trace_context::state(request.headers()).as_deref());
    }
    let trace = telemetry::context_of(&span).or(parent);
    if let Some(trace) = &trace {
        span.record("trace_id", display(trace.trace_hex()));
    }
    (span, trace)
}
