//! `/v1/models` and what is below it: what is loaded and what is stored, and what it is doing.

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    fleet::{ModelState, ModelStatus},
    http::{
        admin::{self, Action, Done},
        app::App,
        error::ApiError,
        public::shown,
    },
};

#[derive(Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// OpenAI's model object; the fields from `root` on are additions. `root` and `max_model_len` are those of vLLM, which
/// its clients read. What neither the store nor a worker has said is null.
#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    /// Of an adapter the model that serves it.
    parent: Option<String>,
    max_model_len: Option<u32>,
    state: ModelState,
    reason: Option<String>,
    workers: usize,
    ready_workers: usize,
    size_bytes: Option<u64>,
    context_length: Option<u32>,
    architecture: Option<String>,
    /// What it can do.
    task: Option<&'static str>,
    /// How many numbers its embeddings have, where it is loaded and embeds text.
    embedding_length: Option<u32>,
    digest: Option<String>,
    /// The model that drafts tokens for it, where it is loaded.
    draft_model: Option<String>,
}

#[derive(Serialize)]
struct Unloaded {
    id: String,
    object: &'static str,
    state: &'static str,
}

pub(super) async fn list(State(app): State<App>, headers: HeaderMap) -> Json<List> {
    let is_admin = app.is_admin(&headers);
    let models = app.models.list(app.sees_stored(&headers)).await;
    let data = models.into_iter().map(|status| Model::new(status, is_admin)).collect();
    Json(List { object: "list", data })
}

/// `/v1/models/{id}`, `…/load` and `…/unload`. The last part of the path says which, since names may have slashes.
pub(super) async fn one(
    State(app): State<App>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Ok(Path(path)) = path else { return Err(ApiError::BadPath) };
    let action = match path.rsplit_once('/') {
        Some((id, "load")) if !id.is_empty() => Some((id, Action::Load)),
        Some((id, "unload")) if !id.is_empty() => Some((id, Action::Unload)),
        _ => None,
    };
    let method = request.method().clone();
    match action {
        Some((id, action)) if method == Method::POST => {
            let done = admin::act(&app, id, action, request).await?;
            answer(&app, done).await
        }
        _ if matches!(method, Method::GET | Method::HEAD) => {
            let stored = app.sees_stored(request.headers());
            match app.models.status(&path, stored).await {
                Ok(status) => Ok(Json(Model::new(status, app.is_admin(request.headers()))).into_response()),
                // A model may have such a name, but none has.
                Err(_) if action.is_some() => Ok(not_allowed(method, "POST")),
                Err(error) => Err(error.into()),
            }
        }
        Some(_) => Ok(not_allowed(method, "POST")),
        None => Ok(not_allowed(method, "GET,HEAD")),
    }
}

async fn answer(app: &App, done: Done) -> Result<Response, ApiError> {
    match done {
        Done::Loaded(name) => {
            let status = app.models.status(&name, true).await?;
            Ok(Json(Model::new(status, true)).into_response())
        }
        Done::Unloaded(id) => Ok(Json(Unloaded { id, object: "model", state: "unloaded" }).into_response()),
    }
}

fn not_allowed(method: Method, allowed: &'static str) -> Response {
    let mut response = ApiError::Method(method).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

impl Model {
    /// Only an administrator sees the paths of the store and the workers.
    fn new(status: ModelStatus, is_admin: bool) -> Self {
        let ModelStatus { name, state, reason, info, workers, ready_workers, since, stored, parent } = status;
        let (info, stored) = (info.as_ref(), stored.as_ref());
        let context_length =
            info.map(|info| info.context_length).or(stored.and_then(|stored| stored.context_length));
        let (stored_size, weights) = (stored.map(|it| it.size), info.map(|info| info.weight_bytes));
        let is_adapter = stored.is_some_and(|it| it.base.is_some());
        Self {
            root: name.clone(),
            parent,
            id: name,
            object: "model",
            created: stored.map_or(since, |stored| stored.imported_at),
            owned_by: "kr-serve",
            max_model_len: context_length,
            state,
            reason: shown(reason, is_admin),
            workers,
            ready_workers,
            size_bytes: if is_adapter { stored_size } else { weights.or(stored_size) },
            context_length,
            architecture: info
                .map(|info| info.architecture.clone())
                .or(stored.and_then(|stored| stored.architecture.clone())),
            task: info
                .map(|info| info.embedding_size.is_some())
                .or(stored.map(|stored| stored.embeds))
                .map(|embeds| if embeds { "embed" } else { "generate" }),
            embedding_length: info.and_then(|info| info.embedding_size),
            draft_model: info.and_then(|info| info.draft_model.clone()),
            digest: info.map(|info| info.digest.clone()).or(stored.map(|stored| stored.digest.clone())),
        }
    }
}
