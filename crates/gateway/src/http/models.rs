//! `GET /v1/models` and `/v1/models/{id}`: what is loaded, and what it is doing.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;

use super::{App, error::ApiError};
use crate::router::{ModelState, ModelStatus};

#[derive(Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// OpenAI's model object; the fields from `state` on are additions. Those that only a worker knows are null until
/// one was ready.
#[derive(Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    state: ModelState,
    reason: Option<String>,
    workers: usize,
    ready_workers: usize,
    size_bytes: Option<u64>,
    context_length: Option<u32>,
    architecture: Option<String>,
    digest: Option<String>,
}

pub(super) async fn list(State(app): State<App>) -> Json<List> {
    let data = app.router.models().into_iter().map(Model::from).collect();
    Json(List { object: "list", data })
}

pub(super) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    find(&app, &id).map(Json)
}

/// The model with this name or digest.
pub(super) fn find(app: &App, id: &str) -> Result<Model, ApiError> {
    let model = app.router.model(id).ok_or_else(|| app.router.unknown(id))?;
    Ok(model.into())
}

impl From<ModelStatus> for Model {
    fn from(status: ModelStatus) -> Self {
        let ModelStatus { name, state, reason, info, workers, ready_workers, since } = status;
        let info = info.as_ref();
        Self {
            id: name,
            object: "model",
            created: since,
            owned_by: "kr-serve",
            state,
            reason,
            workers,
            ready_workers,
            size_bytes: info.map(|info| info.weight_bytes),
            context_length: info.map(|info| info.context_length),
            architecture: info.map(|info| info.architecture.clone()),
            digest: info.map(|info| info.digest.clone()),
        }
    }
}
