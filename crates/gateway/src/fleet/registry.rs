//! Stage *route*: which worker takes a request.
//!
//! The table of models and their workers is written by those who load models and keep workers
//! running, and read by requests, `/readyz` and the model list: what they say is what is known.

mod status;

use std::{
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::message::ModelInfo;

pub use self::status::{ModelState, ModelStatus, WorkerStatus, WorkerWork};
use crate::worker::{WorkerId, WorkerState, link::Link};

/// The models and their workers, as requests see them.
#[derive(Debug, Default)]
pub struct ModelRegistry {
    /// In the order in which they were loaded.
    models: RwLock<Vec<Model>>,
}

#[derive(Debug)]
struct Model {
    /// The name or digest under which it was loaded.
    name: String,
    phase: Phase,
    workers: Vec<Worker>,
    /// What the last worker that became ready said.
    info: Option<ModelInfo>,
    /// What a verification found to be wrong with what is stored.
    damage: Option<String>,
    /// Unix seconds since when it is loaded.
    since: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// It takes requests as soon as, and as long as, a worker is ready.
    Serving,
    /// It takes nothing new, and finishes what it has.
    Draining,
    /// It could not be loaded, and why: it has no workers.
    Failed(String),
}

#[derive(Clone, Debug)]
struct Worker {
    state: WorkerState,
    /// Why it is not ready, where there is something to say.
    note: Option<String>,
    service: Option<Service>,
}

/// What a ready worker offers.
#[derive(Clone, Debug)]
struct Service {
    link: Link,
    info: ModelInfo,
}

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
    /// Nobody serves this model, or will.
    #[error("the model `{model}` does not exist or is not loaded; this server has {served}")]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// What is served, for people.
        served: String,
    },
    /// It finishes what it has.
    #[error("the model `{model}` is being unloaded and takes no more requests; this server has {served}")]
    Unloading {
        /// What was asked for.
        model: String,
        /// What else is served, for people.
        served: String,
    },
    /// Its workers are all loading, restarting or leaving.
    #[error("no worker is ready for the model `{model}`; try again later")]
    NoWorker {
        /// What was asked for.
        model: String,
    },
}

/// Models that could not be loaded and are still listed; older ones are forgotten.
const MAX_FAILED: usize = 8;

impl ModelRegistry {
    /// `count` workers will load `name`; none is ready. Replaces what is known of an earlier attempt.
    pub fn add(&self, name: &str, count: usize) {
        let worker = Worker { state: WorkerState::Spawning, note: None, service: None };
        // A clock before 1970 is no reason to fail.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let (phase, workers) = (Phase::Serving, vec![worker; count]);
        let model = Model { name: name.to_owned(), phase, workers, info: None, damage: None, since };
        let mut models = self.write();
        models.retain(|model| model.name != name);
        models.push(model);
    }

    /// The model takes nothing new from now on.
    pub fn set_draining(&self, name: &str) {
        self.change(name, |model| model.phase = Phase::Draining);
    }

    /// The model could not be loaded; its workers are gone.
    pub fn set_failed(&self, name: &str, why: String) {
        self.change(name, |model| {
            model.workers.clear();
            model.phase = Phase::Failed(why);
        });
        let mut models = self.write();
        if models.iter().filter(|model| model.has_failed()).count() > MAX_FAILED
            && let Some(oldest) = models.iter().position(Model::has_failed)
        {
            models.remove(oldest);
        }
    }

    /// What a verification found to be wrong with what is stored of the model, if anything.
    pub fn set_damage(&self, name: &str, damage: Option<String>) {
        self.change(name, |model| model.damage = damage);
    }

    /// Forgets a model whose workers are gone. False if it was not known.
    pub fn remove(&self, name: &str) -> bool {
        let mut models = self.write();
        let before = models.len();
        models.retain(|model| model.name != name);
        models.len() < before
    }

    /// The worker serves from now on.
    pub fn set_ready(&self, worker: &WorkerId, link: Link, info: ModelInfo) {
        self.change(&worker.model, |model| model.info = Some(info.clone()));
        let service = Some(Service { link, info });
        self.set(worker, Worker { state: WorkerState::Ready, note: None, service });
    }

    /// The worker does not serve (any more), and `note` says why.
    pub fn set_state(&self, worker: &WorkerId, state: WorkerState, note: Option<String>) {
        self.set(worker, Worker { state, note, service: None });
    }

    /// The name of the model with this name or digest, if a worker could take a request for it now. Picks none.
    ///
    /// # Errors
    /// The same as of [`ModelRegistry::route`].
    pub fn resolve(&self, id: &str) -> Result<String, RouteError> {
        let models = self.read();
        let model = accepting(&models, id)?;
        match model.workers.iter().any(|worker| worker.ready().is_some()) {
            true => Ok(model.name.clone()),
            false => Err(RouteError::NoWorker { model: id.to_owned() }),
        }
    }

    /// The least loaded ready worker of the model with this name or digest.
    ///
    /// # Errors
    /// If the model is not loaded, is being unloaded, or has no ready worker.
    pub fn route(&self, id: &str) -> Result<Route, RouteError> {
        let models = self.read();
        let ready = accepting(&models, id)?.workers.iter().filter_map(Worker::ready);
        match ready.min_by_key(|service| service.link.live_streams()) {
            Some(service) => Ok(Route { link: service.link.clone(), info: service.info.clone() }),
            None => Err(RouteError::NoWorker { model: id.to_owned() }),
        }
    }

    /// The name under which the model with this name or digest is known.
    pub fn name_of(&self, id: &str) -> Option<String> {
        find(&self.read(), id).map(|model| model.name.clone())
    }

    /// [`RouteError::UnknownModel`] for `id`, with what is served instead.
    pub fn unknown(&self, id: &str) -> RouteError {
        RouteError::UnknownModel { model: id.to_owned(), served: served(&self.read()) }
    }

    /// Whether a request for some model would be taken.
    pub fn is_ready(&self) -> bool {
        self.read().iter().any(|model| model.state() == ModelState::Ready)
    }

    /// All workers' states, model by model.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.read().iter().flat_map(Model::worker_statuses).collect()
    }

    /// All models: those that are loaded, and those that lately could not be.
    pub fn models(&self) -> Vec<ModelStatus> {
        self.read().iter().map(Model::status).collect()
    }

    /// The model with this name or digest.
    pub fn model(&self, id: &str) -> Option<ModelStatus> {
        find(&self.read(), id).map(Model::status)
    }

    /// The links of all workers that serve.
    pub fn links(&self) -> Vec<Link> {
        self.read().iter().flat_map(Model::links).collect()
    }

    /// The links of the model's workers that serve.
    pub fn links_of(&self, name: &str) -> Vec<Link> {
        let models = self.read();
        models.iter().filter(|model| model.name == name).flat_map(Model::links).collect()
    }

    fn set(&self, worker: &WorkerId, value: Worker) {
        self.change(&worker.model, |model| {
            if let Some(slot) = model.workers.get_mut(worker.number) {
                *slot = value;
            }
        });
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Model)) {
        if let Some(model) = self.write().iter_mut().find(|model| model.name == name) {
            change(model);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Model>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Model>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By name, or by digest: several names may have one, and one that serves is preferred.
fn find<'a>(models: &'a [Model], id: &str) -> Option<&'a Model> {
    let has_digest = |model: &&Model| model.info.as_ref().is_some_and(|info| info.digest == id);
    let digest = || models.iter().filter(has_digest).min_by_key(|model| model.phase != Phase::Serving);
    models.iter().find(|model| model.name == id).or_else(digest)
}

/// The model with this name or digest, if it takes requests as soon as a worker is ready.
fn accepting<'a>(models: &'a [Model], id: &str) -> Result<&'a Model, RouteError> {
    let Some(model) = find(models, id).filter(|model| !model.has_failed()) else {
        return Err(RouteError::UnknownModel { model: id.to_owned(), served: served(models) });
    };
    match model.phase {
        Phase::Draining => Err(RouteError::Unloading { model: id.to_owned(), served: served(models) }),
        Phase::Serving | Phase::Failed(_) => Ok(model),
    }
}

/// For people.
fn served(models: &[Model]) -> String {
    let serving = models.iter().filter(|model| model.phase == Phase::Serving);
    let names: Vec<_> = serving.map(|model| format!("`{}`", model.name)).collect();
    if names.is_empty() { "no model".to_owned() } else { names.join(", ") }
}

impl Model {
    fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed(_))
    }

    fn links(&self) -> Vec<Link> {
        self.workers.iter().filter_map(Worker::ready).map(|service| service.link.clone()).collect()
    }
}

impl Worker {
    fn ready(&self) -> Option<&Service> {
        self.service.as_ref().filter(|service| self.state == WorkerState::Ready && service.link.is_alive())
    }
}
