//! Stage *route*: which worker takes a request.
//!
//! The table of workers is written by the supervisor and read by requests, `/readyz` and the model
//! list: what they say is what the supervisor knows.

use std::{
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::message::{Heartbeat, ModelInfo};

use crate::{link::Link, supervisor::WorkerState};

/// The workers, as requests see them.
#[derive(Debug)]
pub struct Router {
    /// The name under which the workers were told to load the model.
    model: String,
    workers: RwLock<Vec<Worker>>,
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
    /// Unix seconds at which it became ready.
    since: u64,
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
    #[error("the model `{model}` does not exist; this server has `{served}`")]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// What is served.
        served: String,
    },
    /// Its workers are all loading, restarting or leaving.
    #[error("no worker is ready for the model `{model}`; try again later")]
    NoWorker {
        /// What was asked for.
        model: String,
    },
}

/// One worker's state, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WorkerStatus {
    /// Its number, from 0.
    pub worker: usize,
    /// What it is doing.
    pub state: WorkerState,
    /// Live streams on it.
    pub streams: usize,
    /// What it said about itself, once it serves.
    #[serde(flatten)]
    pub work: Option<WorkerWork>,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A serving worker's own words, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WorkerWork {
    /// Its process id.
    pub pid: u32,
    /// Microseconds from its start until the weights could be used, without the tokenizer.
    pub load_micros: u64,
    /// Microseconds for reading the tokenizer.
    pub tokenizer_micros: u64,
    /// Engine steps since its start.
    pub step: u64,
    /// Sequences that take part in steps.
    pub running: u32,
    /// Sequences that wait for a place.
    pub waiting: u32,
    /// Tokens whose keys and values it holds.
    pub kv_tokens: u64,
    /// Most tokens whose keys and values it may hold.
    pub kv_capacity: u64,
}

/// A model that is served now, for the model list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// What the workers say about it.
    pub info: ModelInfo,
    /// Unix seconds since when.
    pub since: u64,
}

impl Router {
    /// `count` workers that will load `model`, none ready.
    pub fn new(model: String, count: usize) -> Self {
        let worker = Worker { state: WorkerState::Spawning, note: None, service: None };
        Self { model, workers: RwLock::new(vec![worker; count]) }
    }

    /// The least loaded ready worker.
    pub fn route(&self, model: &str) -> Result<Route, RouteError> {
        let workers = self.read();
        let ready = || workers.iter().filter_map(Worker::ready).filter(|s| s.serves(model, &self.model));
        if let Some(service) = ready().min_by_key(|service| service.link.live_streams()) {
            return Ok(Route { link: service.link.clone(), info: service.info.clone() });
        }
        let known = workers.iter().filter_map(|w| w.service.as_ref()).any(|s| s.info.name == model);
        if known || model == self.model {
            Err(RouteError::NoWorker { model: model.to_owned() })
        } else {
            Err(RouteError::UnknownModel { model: model.to_owned(), served: self.model.clone() })
        }
    }

    /// The worker serves from now on.
    pub fn set_ready(&self, worker: usize, link: Link, info: ModelInfo) {
        // A clock before 1970 is no reason to fail.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let service = Some(Service { link, info, since });
        self.set(worker, Worker { state: WorkerState::Ready, note: None, service });
    }

    /// The worker does not serve (any more), and `note` says why.
    pub fn set_state(&self, worker: usize, state: WorkerState, note: Option<String>) {
        self.set(worker, Worker { state, note, service: None });
    }

    /// Whether a request would be taken.
    pub fn is_ready(&self) -> bool {
        self.read().iter().any(|worker| worker.ready().is_some())
    }

    /// All workers' states, by number.
    pub fn statuses(&self) -> Vec<WorkerStatus> {
        let status = |(worker, w): (usize, &Worker)| WorkerStatus {
            worker,
            state: w.shown(),
            streams: w.service.as_ref().map_or(0, |s| s.link.live_streams()),
            work: w.service.as_ref().map(Service::work),
            note: w.note.clone(),
        };
        self.read().iter().enumerate().map(status).collect()
    }

    /// The models that ready workers serve, each once.
    pub fn models(&self) -> Vec<ServedModel> {
        let mut models: Vec<ServedModel> = Vec::new();
        for service in self.read().iter().filter_map(Worker::ready) {
            if !models.iter().any(|m| m.info.name == service.info.name) {
                models.push(ServedModel { info: service.info.clone(), since: service.since });
            }
        }
        models
    }

    /// The links of all workers that serve.
    pub fn links(&self) -> Vec<Link> {
        self.read().iter().filter_map(Worker::ready).map(|service| service.link.clone()).collect()
    }

    fn set(&self, worker: usize, value: Worker) {
        if let Some(slot) = self.write().get_mut(worker) {
            *slot = value;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Worker>> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Worker>> {
        self.workers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Its link may know of its death a moment before the supervisor does.
    fn shown(&self) -> WorkerState {
        let dead = self.state == WorkerState::Ready && self.ready().is_none();
        if dead { WorkerState::Exited } else { self.state }
    }

    fn ready(&self) -> Option<&Service> {
        self.service.as_ref().filter(|service| self.state == WorkerState::Ready && service.link.is_alive())
    }
}

impl Service {
    fn work(&self) -> WorkerWork {
        let Heartbeat { step, running, waiting, kv_tokens, kv_capacity } = self.link.heartbeat();
        let ModelInfo { load_micros, tokenizer_micros, .. } = self.info;
        let pid = self.link.pid();
        WorkerWork { pid, load_micros, tokenizer_micros, step, running, waiting, kv_tokens, kv_capacity }
    }

    /// By its own name, or by the one it was loaded under.
    fn serves(&self, model: &str, configured: &str) -> bool {
        self.info.name == model || configured == model
    }
}
