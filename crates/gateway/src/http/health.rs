//! `GET /livez`, `/readyz` and `/metrics`: for machines that watch.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;

use super::{app::App, error::ApiError, public::shown};
use crate::fleet::{ModelState, ModelStatus, WorkerStatus};

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    shutting_down: bool,
    #[serde(flatten)]
    details: Option<Details>,
}

/// What those see who may use the server.
#[derive(Serialize)]
struct Details {
    models: Vec<ModelHealth>,
    workers: Vec<WorkerStatus>,
}

#[derive(Serialize)]
struct ModelHealth {
    model: String,
    state: ModelState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl ModelHealth {
    fn new(ModelStatus { name, state, reason, .. }: ModelStatus, is_admin: bool) -> Self {
        Self { model: name, state, reason: shown(reason, is_admin) }
    }
}

/// The process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// A request would be taken.
pub(super) async fn readyz(State(app): State<App>, headers: HeaderMap) -> Response {
    let shutting_down = app.admission.is_closed();
    let ready = !shutting_down && app.registry.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let may_use = app.authenticate(&headers).is_ok();
    let details = may_use.then(|| details(&app, app.is_admin(&headers)));
    (status, Json(Readiness { ready, shutting_down, details })).into_response()
}

fn details(app: &App, is_admin: bool) -> Details {
    let models = app.registry.models().into_iter().map(|model| ModelHealth::new(model, is_admin)).collect();
    let mut workers = app.registry.workers();
    for worker in &mut workers {
        worker.note = shown(worker.note.take(), is_admin);
    }
    Details { models, workers }
}

/// All metrics, in the OpenMetrics text format.
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let text = app.exposition.render().map_err(|error| {
        error!(%error, "metrics could not be written");
        ApiError::Internal
    })?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}
