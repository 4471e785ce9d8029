//! `POST /v1/models/{id}/load` and `/v1/models/{id}/unload`: for those who have the admin key.

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;

use super::{
    App, body,
    error::ApiError,
    fields::admin::{LoadFields, UnloadFields},
    models,
};

/// Why an administrator's request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody may.
    #[error(
        "this server loads and unloads no models over HTTP: it was started without an admin key; set \
         `server.admin_key_file` in its configuration, or KR_ADMIN_KEY in its environment"
    )]
    Disabled,
    /// No key was sent.
    #[error("the admin key is missing; send it as `Authorization: Bearer KEY`")]
    NoKey,
    /// Another key was sent.
    #[error("this is not the server's admin key")]
    WrongKey,
}

#[derive(Serialize)]
struct Unloaded {
    id: String,
    object: &'static str,
    state: &'static str,
}

/// Most bytes of a body that holds two numbers.
const MAX_BODY: usize = 4 << 10;

/// What an administrator can do to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Load,
    Unload,
}

/// Loads or unloads the model `id`.
pub(super) async fn act(app: &App, id: &str, action: Action, request: Request) -> Result<Response, ApiError> {
    authorize(app, request.headers())?;
    let body = body::read(app, request, MAX_BODY).await?;
    match action {
        Action::Load => load(app, id, &body.bytes).await,
        Action::Unload => unload(app, id, &body.bytes).await,
    }
}

/// Whether a request has the admin key.
pub(super) fn is_admin(app: &App, headers: &HeaderMap) -> bool {
    authorize(app, headers).is_ok()
}

/// Before anything else is looked at.
fn authorize(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let key = app.admin_key.as_ref().ok_or(Refusal::Disabled)?;
    let presented = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let (scheme, presented) = presented.and_then(|it| it.split_at_checked(7)).ok_or(Refusal::NoKey)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Refusal::NoKey);
    }
    if key.is(presented.trim_ascii()) { Ok(()) } else { Err(Refusal::WrongKey) }
}

async fn load(app: &App, id: &str, body: &Bytes) -> Result<Response, ApiError> {
    let workers = LoadFields::read(body)?.workers()?;
    let name = app.models.load(id, workers).await?;
    Ok(Json(models::find(app, &name, true)?).into_response())
}

async fn unload(app: &App, id: &str, body: &Bytes) -> Result<Response, ApiError> {
    let drain_timeout = UnloadFields::read(body)?.drain_timeout()?;
    let id = app.models.unload(id, drain_timeout).await?;
    Ok(Json(Unloaded { id, object: "model", state: "unloaded" }).into_response())
}
