//! `/v1/models` and what is below it: what is loaded, and what it is doing.

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

/// OpenAI's model object; the fields from `state` on are additions. Those that only a worker knows are null until
/// one was ready.
#[derive(Serialize)]
struct Model {
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
    /// The same, as vLLM calls it and as routers of several servers read it.
    max_model_len: Option<u32>,
    /// The model that the name stands for. Adapters of one are not served, so it is the name itself.
    root: String,
    architecture: Option<String>,
    digest: Option<String>,
}

#[derive(Serialize)]
struct Unloaded {
    id: String,
    object: &'static str,
    state: &'static str,
}

pub(super) async fn list(State(app): State<App>, headers: HeaderMap) -> Json<List> {
    let is_admin = app.is_admin(&headers);
    let data = app.registry.models().into_iter().map(|status| Model::new(status, is_admin)).collect();
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
    let reads = matches!(method, Method::GET | Method::HEAD);
    match action {
        Some((id, action)) if method == Method::POST => {
            let done = admin::act(&app, id, action, request).await?;
            answer(&app, done)
        }
        // A model may have such a name.
        Some(_) if !(reads && app.registry.model(&path).is_some()) => Ok(not_allowed(method, "POST")),
        _ if reads => {
            let model = find(&app, &path, app.is_admin(request.headers()))?;
            Ok(Json(model).into_response())
        }
        _ => Ok(not_allowed(method, "GET,HEAD")),
    }
}

fn answer(app: &App, done: Done) -> Result<Response, ApiError> {
    match done {
        Done::Loaded(name) => Ok(Json(find(app, &name, true)?).into_response()),
        Done::Unloaded(id) => Ok(Json(Unloaded { id, object: "model", state: "unloaded" }).into_response()),
    }
}

fn not_allowed(method: Method, allowed: &'static str) -> Response {
    let mut response = ApiError::Method(method).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The model with this name or digest.
fn find(app: &App, id: &str, is_admin: bool) -> Result<Model, ApiError> {
    let model = app.registry.model(id).ok_or_else(|| app.registry.unknown(id))?;
    Ok(Model::new(model, is_admin))
}

impl Model {
    /// Only an administrator sees the paths of the store and the workers.
    fn new(status: ModelStatus, is_admin: bool) -> Self {
        let ModelStatus { name, state, reason, info, workers, ready_workers, since } = status;
        let info = info.as_ref();
        Self {
            root: name.clone(),
            id: name,
            object: "model",
            created: since,
            owned_by: "kr-serve",
            state,
            reason: shown(reason, is_admin),
            workers,
            ready_workers,
            size_bytes: info.map(|info| info.weight_bytes),
            context_length: info.map(|info| info.context_length),
            max_model_len: info.map(|info| info.context_length),
            architecture: info.map(|info| info.architecture.clone()),
            digest: info.map(|info| info.digest.clone()),
        }
    }
}
