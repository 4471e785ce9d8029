//! What an administrator can do: load, unload and reload models, restart workers, and stop the server in order.
//!
//! Loading and unloading are reached through the list of models, which is a dialect's. The rest is an API of its own,
//! below `/admin`.

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{MethodRouter, post},
};
use serde::Serialize;
use tracing::info;

use super::{
    admin_request::{LoadFields, NoFields, RestartFields, UnloadFields},
    app::App,
    body,
    error::ApiError,
};
use crate::fleet::{ModelState, ModelStatus, WorkerStatus};

/// What an administrator can do to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Load,
    Unload,
}

/// What was done, and the name of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Loaded(String),
    Unloaded(String),
}

/// A worker that was restarted.
#[derive(Serialize)]
struct Restarted {
    id: String,
    object: &'static str,
    /// As `/readyz` shows it.
    #[serde(flatten)]
    status: WorkerStatus,
}

/// A model that was reloaded.
#[derive(Serialize)]
struct Reloaded {
    id: String,
    object: &'static str,
    state: ModelState,
    workers: usize,
    ready_workers: usize,
    digest: Option<String>,
}

/// A server that takes nothing new.
#[derive(Serialize)]
struct Draining {
    state: &'static str,
    /// Those that are left.
    streams: i64,
}

/// Most bytes of a body that holds two numbers.
const MAX_BODY: usize = 4 << 10;

/// Loads or unloads the model `id`. Whether the request is an administrator's is checked before anything else.
pub(super) async fn act(app: &App, id: &str, action: Action, request: Request) -> Result<Done, ApiError> {
    app.authorize(request.headers())?;
    let body = body::read(app, request, MAX_BODY).await?;
    match action {
        Action::Load => {
            let workers = LoadFields::read(&body.bytes)?.workers()?;
            Ok(Done::Loaded(app.models.load(id, workers).await?))
        }
        Action::Unload => {
            let drain_timeout = UnloadFields::read(&body.bytes)?.drain_timeout()?;
            let name = app.models.unload(id, drain_timeout).await?;
            app.admission.forget(&name);
            Ok(Done::Unloaded(name))
        }
    }
}

/// What is below `/admin`, for the router.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/admin/drain", post(drain)),
        // Names may have slashes, like `organization/model`.
        ("/admin/models/{*path}", post(reload)),
        ("/admin/workers/{*path}", post(restart)),
    ]
}

/// `/admin/workers/{model}/{number}/restart`
async fn restart(
    State(app): State<App>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    app.authorize(request.headers())?;
    let worker = subject(path, "/restart", &request)?;
    let body = body::read(&app, request, MAX_BODY).await?;
    let fields = RestartFields::read(&body.bytes)?;
    let (finish, limit) = (fields.drain_timeout()?, fields.timeout()?);
    let status = app.models.restart(&worker, finish.unwrap_or_default(), limit).await?;
    let id = format!("{}/{}", status.model, status.worker);
    Ok(Json(Restarted { id, object: "worker", status }).into_response())
}

/// `/admin/models/{model}/reload`
async fn reload(
    State(app): State<App>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    app.authorize(request.headers())?;
    let model = subject(path, "/reload", &request)?;
    let body = body::read(&app, request, MAX_BODY).await?;
    let fields = RestartFields::read(&body.bytes)?;
    let status = app.models.reload(&model, fields.drain_timeout()?, fields.timeout()?).await?;
    let ModelStatus { name, state, info, workers, ready_workers, .. } = status;
    let digest = info.map(|info| info.digest);
    let reloaded = Reloaded { id: name, object: "model", state, workers, ready_workers, digest };
    Ok(Json(reloaded).into_response())
}

/// `/admin/drain`: what a signal to stop does.
async fn drain(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    app.authorize(request.headers())?;
    let body = body::read(&app, request, MAX_BODY).await?;
    NoFields::read(&body.bytes)?;
    info!("an administrator asked the server to drain");
    app.admission.close();
    app.request_stop();
    let draining = Draining { state: "draining", streams: app.admission.metrics().streams_open.get() };
    Ok((StatusCode::ACCEPTED, Json(draining)).into_response())
}

/// Who is meant by a path that has to end in `action`.
fn subject(
    path: Result<Path<String>, PathRejection>,
    action: &str,
    request: &Request,
) -> Result<String, ApiError> {
    let Ok(Path(path)) = path else { return Err(ApiError::BadPath) };
    match path.strip_suffix(action) {
        Some(subject) if !subject.is_empty() => Ok(subject.to_owned()),
        _ => Err(ApiError::UnknownPath(request.uri().path().to_owned())),
    }
}
