//! Stage *route*: which worker takes a request. Pure.

use protocol::message::ModelInfo;

use super::model::{Model, Service};
use crate::worker::link::Link;

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// The worker's link.
    pub link: Link,
    /// What it serves.
    pub info: ModelInfo,
}

/// Why a request can't go anywhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No worker serves this model, or will.
    #[error("the model `{model}` does not exist or is not loaded; this server has {served}")]
    UnknownModel {
        /// The name or digest of the request.
        model: String,
        /// What is served, for people.
        served: String,
    },
    /// It finishes what it has.
    #[error("the model `{model}` is being unloaded and takes no more requests; this server has {served}")]
    Unloading {
        /// The name or digest of the request.
        model: String,
        /// What else is served, for people.
        served: String,
    },
    /// The request names none, and there is not exactly one.
    #[error("`model` is required, since this server does not have exactly one model; it has {served}")]
    NotNamed {
        /// What is served, for people.
        served: String,
    },
    /// Its workers are all loading, restarting or leaving.
    #[error("no worker is ready for the model `{model}`; try again later")]
    NoWorker {
        /// The name or digest of the request.
        model: String,
    },
}

/// The least loaded ready worker of the model with this name or digest.
pub(super) fn route(models: &[Model], id: &str) -> Result<Route, RouteError> {
    match accepting(models, id)?.services().min_by_key(|service| service.link.live_streams()) {
        Some(Service { link, info, .. }) => Ok(Route { link: link.clone(), info: info.clone() }),
        None => Err(RouteError::NoWorker { model: id.to_owned() }),
    }
}

/// The ready worker of the model with this name or digest that has the fewest operations to do. One that is known to
/// be dead, and not yet to its task, comes last.
pub(super) fn route_operation(models: &[Model], id: &str) -> Result<Route, RouteError> {
    let load = |link: &Link| (!link.is_alive(), link.open_operations(), link.live_streams());
    match accepting(models, id)?.services().min_by_key(|service| load(&service.link)) {
        Some(Service { link, info, .. }) => Ok(Route { link: link.clone(), info: info.clone() }),
        None => Err(RouteError::NoWorker { model: id.to_owned() }),
    }
}

/// The name of the only model that takes requests.
pub(super) fn only(models: &[Model]) -> Result<String, RouteError> {
    let mut taking = models.iter().filter(|model| model.takes_requests());
    match (taking.next(), taking.next()) {
        (Some(model), None) => Ok(model.name.clone()),
        _ => Err(RouteError::NotNamed { served: served(models) }),
    }
}

/// The name of the model with this name or digest, if [`route`] would find a worker.
pub(super) fn resolve(models: &[Model], id: &str) -> Result<String, RouteError> {
    let model = accepting(models, id)?;
    match model.services().next() {
        Some(_) => Ok(model.name.clone()),
        None => Err(RouteError::NoWorker { model: id.to_owned() }),
    }
}

/// The model with this name or digest, if it takes requests as soon as a worker is ready.
fn accepting<'a>(models: &'a [Model], id: &str) -> Result<&'a Model, RouteError> {
    let Some(model) = find(models, id).filter(|model| !model.has_failed()) else {
        return Err(unknown(models, id));
    };
    if model.is_draining() {
        return Err(RouteError::Unloading { model: id.to_owned(), served: served(models) });
    }
    Ok(model)
}

/// The model with this name, or else with this digest. Of several with the digest, one that takes requests is
/// preferred.
pub(super) fn find<'a>(models: &'a [Model], id: &str) -> Option<&'a Model> {
    let with_digest = || {
        let found = models.iter().filter(|model| model.has_digest(id));
        found.min_by_key(|model| !model.takes_requests())
    };
    models.iter().find(|model| model.name == id).or_else(with_digest)
}

/// [`RouteError::UnknownModel`] for `id`, with what is served instead.
pub(super) fn unknown(models: &[Model], id: &str) -> RouteError {
    RouteError::UnknownModel { model: id.to_owned(), served: served(models) }
}

/// The models that take requests, for people.
fn served(models: &[Model]) -> String {
    let serving = models.iter().filter(|model| model.takes_requests());
    let names: Vec<_> = serving.map(|model| format!("`{}`", model.name)).collect();
    if names.is_empty() { "no model".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
