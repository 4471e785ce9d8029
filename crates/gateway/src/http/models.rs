//! `GET /v1/models` and `/v1/models/{id}`: what ready workers serve, and nothing else.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;

use super::{App, error::ApiError};
use crate::router::{RouteError, ServedModel};

#[derive(Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// OpenAI's model object; the fields from `context_length` on are additions.
#[derive(Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    context_length: u32,
    architecture: String,
    digest: String,
}

pub(super) async fn list(State(app): State<App>) -> Json<List> {
    let data = app.router.models().into_iter().map(Model::from).collect();
    Json(List { object: "list", data })
}

pub(super) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let models = app.router.models();
    if let Some(model) = models.into_iter().find(|model| model.info.name == id) {
        return Ok(Json(model.into()));
    }
    // A model that is not ready now is unavailable; another one does not exist.
    match app.router.route(&id) {
        Err(error) => Err(error.into()),
        Ok(route) => Err(RouteError::UnknownModel { model: id, served: route.info.name }.into()),
    }
}

impl From<ServedModel> for Model {
    fn from(ServedModel { info, since }: ServedModel) -> Self {
        Self {
            id: info.name,
            object: "model",
            created: since,
            owned_by: "kr-serve",
            context_length: info.context_length,
            architecture: info.architecture,
            digest: info.digest,
        }
    }
}
