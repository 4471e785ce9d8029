//! `POST /v1/models/{id}/load` and `/v1/models/{id}/unload`: for those who have the admin key.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Request, State},
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

/// Loads or unloads: the last part of the path says which, since names may have slashes.
pub(super) async fn act(
    State(app): State<App>,
    Path(path): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, action) = match path.rsplit_once('/') {
        Some((id, action @ ("load" | "unload"))) if !id.is_empty() => (id, action),
        _ => return Err(ApiError::UnknownPath(request.uri().path().to_owned())),
    };
    authorize(&app, request.headers())?;
    let body = body::read(request, MAX_BODY).await?;
    if action == "load" { load(&app, id, &body).await } else { unload(&app, id, &body).await }
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
    Ok(Json(models::find(app, &name)?).into_response())
}

async fn unload(app: &App, id: &str, body: &Bytes) -> Result<Response, ApiError> {
    let patience = UnloadFields::read(body)?.drain_timeout_ms.map(Duration::from_millis);
    let id = app.models.unload(id, patience).await?;
    Ok(Json(Unloaded { id, object: "model", state: "unloaded" }).into_response())
}
