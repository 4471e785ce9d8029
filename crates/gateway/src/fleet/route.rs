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
    /// Its workers are all loading, restarting or leaving.
    #[error("no worker is ready for the model `{model}`; try again later")]
    NoWorker {
        /// The name or digest of the request.
        model: String,
    },
}

/// The least loaded ready worker of the model with this name or digest.
pub(super) fn route(models: &[Model], id: &str) -> Result<Route, RouteError> {
    match accepting(models, id)?
        .services()
        .filter(takes_streams)
        .min_by_key(|service| service.link.live_streams())
    {
        Some(Service { link, info, .. }) => Ok(Route { link: link.clone(), info: info.clone() }),
        None => Err(RouteError::NoWorker { model: id.to_owned() }),
    }
}

/// The name of the model with this name or digest, if [`route`] would find a worker, now or once one is ready.
pub(super) fn resolve(models: &[Model], id: &str) -> Result<String, RouteError> {
    accepting(models, id).map(|model| model.name.clone())
}

/// Whether [`route`] would find a worker now.
///
/// # Errors
/// It will not find one later either.
pub(super) fn is_usable(models: &[Model], id: &str) -> Result<bool, RouteError> {
    Ok(accepting(models, id)?.services().any(|service| takes_streams(&service)))
}

/// A worker that is about to leave serves what it has.
fn takes_streams(service: &&Service) -> bool {
    service.link.takes_streams()
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
