//! What an administrator can do to a model: load and unload it.

use axum::extract::Request;

use super::{
    admin_request::{LoadFields, UnloadFields},
    app::App,
    body,
    error::ApiError,
};

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
