//! All routes, and what every request passes on its way to one.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router as Routes,
    extract::{MatchedPath, Request, State},
    http::{Method, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument, debug, info_span};

use super::{
    admin,
    app::App,
    dialect::Api,
    error::{ApiError, ErrorWriter},
    guard, health, openai, origin, request_id, unread,
};

/// The dialects.
const DIALECTS: &[fn() -> Api] = &[openai::api];

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
    let id = request_id::of(request.headers());
    let span = info_span!("accept", method = %request.method(), route, request_id = id.0);
    request.extensions_mut().insert(id.clone());
    let response = next.run(request).instrument(span.clone()).await;
    let response = request_id::finish(response, &id, write_error).await;
    let code = response.status().as_u16();
    span.in_scope(|| debug!(code, "answered"));
    app.metrics.count_request(route, code);
    response
}
