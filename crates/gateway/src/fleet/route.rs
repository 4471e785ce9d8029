//! Stage *route*: which worker takes a request. Pure.

mod affinity;

use std::iter;

use protocol::message::ModelInfo;

pub use self::affinity::RouteRequest;
use self::affinity::{Candidate, pick};
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
    /// It is an adapter, and what it adapts is not there.
    #[error(
        "the adapter `{adapter}` has no base: the model for which it was imported is not in the store any more; import that          again, or the adapter for the model that is"
    )]
    NoBase {
        /// The adapter's name.
        adapter: String,
    },
    /// Its workers are all loading, restarting or leaving.
    #[error("no worker is ready for the model `{model}`; try again later")]
    NoWorker {
        /// The name or digest of the request.
        model: String,
    },
}

/// The ready worker of the model with this name or digest that is best for `request`.
pub(super) fn route(models: &[Model], id: &str, request: RouteRequest) -> Result<Route, RouteError> {
    let services: Vec<_> =
        going_on(models, id)?.numbered_services().filter(|(_, service)| takes_streams(service)).collect();
    let candidates: Vec<_> = services.iter().map(|(number, service)| candidate(*number, service)).collect();
    match pick(&candidates, request).map(|index| services[index].1) {
        Some(Service { link, info, .. }) => Ok(Route { link: link.clone(), info: info.clone() }),
        None => Err(RouteError::NoWorker { model: id.to_owned() }),
    }
}

fn candidate(number: usize, service: &Service) -> Candidate {
    Candidate { number, outstanding: service.link.outstanding_tokens(), streams: service.link.live_streams() }
}

/// The ready worker of the model with this name or digest that has the fewest operations to do.
pub(super) fn route_operation(models: &[Model], id: &str) -> Result<Route, RouteError> {
    let load = |link: &Link| (link.open_operations(), link.live_streams());
    match going_on(models, id)?.services().filter(takes_streams).min_by_key(|service| load(&service.link)) {
        Some(Service { link, info, .. }) => Ok(Route { link: link.clone(), info: info.clone() }),
        None => Err(RouteError::NoWorker { model: id.to_owned() }),
    }
}

/// The name of the only model that takes requests.
pub(super) fn only(models: &[Model]) -> Result<String, RouteError> {
    let mut taking = models.iter().filter(|model| model.takes_requests());
    match (taking.next(), taking.next()) {
        (Some(model), None) => Ok(model.name.clone()),
        _ => Err(RouteError::NotNamed { served: listed(models, iter::empty()) }),
    }
}

/// The name of the model with this name or digest, if it takes new requests, now or once a worker is ready.
pub(super) fn resolve(models: &[Model], id: &str) -> Result<String, RouteError> {
    accepting(models, id).map(|model| model.name.clone())
}

/// Whether [`route`] would find a worker now.
///
/// # Errors
/// It will not find one later either.
pub(super) fn is_usable(models: &[Model], id: &str) -> Result<bool, RouteError> {
    Ok(going_on(models, id)?.services().any(|service| takes_streams(&service)))
}

/// A worker that is about to leave serves what it has.
fn takes_streams(service: &&Service) -> bool {
    service.link.takes_streams()
}

/// The model with this name or digest, if it takes new requests as soon as a worker is ready.
fn accepting<'a>(models: &'a [Model], id: &str) -> Result<&'a Model, RouteError> {
    let model = going_on(models, id)?;
    if model.is_leaving() { Err(unloading(models, id)) } else { Ok(model) }
}

/// The model with this name or digest, if it serves requests that came while it took them.
fn going_on<'a>(models: &'a [Model], id: &str) -> Result<&'a Model, RouteError> {
    let Some(model) = find(models, id).filter(|model| !model.has_failed()) else {
        return Err(unknown(models, id, iter::empty()));
    };
    if model.is_ending() { Err(unloading(models, id)) } else { Ok(model) }
}

fn unloading(models: &[Model], id: &str) -> RouteError {
    RouteError::Unloading { model: id.to_owned(), served: listed(models, iter::empty()) }
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

/// [`RouteError::UnknownModel`] for `id`, with what is served instead, and what could be: `others`.
pub(super) fn unknown<'a>(models: &[Model], id: &str, others: impl Iterator<Item = &'a str>) -> RouteError {
    RouteError::UnknownModel { model: id.to_owned(), served: listed(models, others) }
}

/// Names that an error lists.
const MAX_LISTED: usize = 20;

/// The models that take requests, and others, for people.
fn listed<'a>(models: &[Model], others: impl Iterator<Item = &'a str>) -> String {
    let quoted = |name: &str| format!("`{name}`");
    let serves = |name: &str| models.iter().any(|model| model.takes_requests() && model.name == name);
    let serving = models.iter().filter(|model| model.takes_requests());
    let mut names: Vec<_> = serving.map(|model| quoted(&model.name)).collect();
    let most = names.len().max(MAX_LISTED);
    names.extend(others.filter(|name| !serves(name)).map(quoted));
    let more = names.len().saturating_sub(most);
    names.truncate(most);
    match (names.len(), more) {
        (0, _) => "no model".to_owned(),
        (_, 0) => names.join(", "),
        (_, more) => format!("{}, and {more} more in GET /v1/models", names.join(", ")),
    }
}

#[cfg(test)]
mod tests;
