//! `GET /livez`, `/readyz` and `/metrics`: for machines that watch.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;

use super::{App, error::ApiError};
use crate::router::{ModelState, ModelStatus, WorkerStatus};

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    shutting_down: bool,
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

impl From<ModelStatus> for ModelHealth {
    fn from(ModelStatus { name, state, reason, .. }: ModelStatus) -> Self {
        Self { model: name, state, reason }
    }
}

/// The process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// A request would be taken.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let shutting_down = app.admission.is_closed();
    let ready = !shutting_down && app.router.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let models = app.router.models().into_iter().map(ModelHealth::from).collect();
    (status, Json(Readiness { ready, shutting_down, models, workers: app.router.workers() })).into_response()
}

/// All metrics, in the OpenMetrics text format.
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let text = app.metrics.render().map_err(|error| {
        error!(%error, "metrics could not be written");
        ApiError::Internal
    })?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}
