//! Which models are served: loads and unloads them while others serve.
//!
//! ```text
//! load ─► Loading ─► Ready ── unload ─► Draining ─► gone
//!            │ │                           ▲
//!            │ └────────── unload ─────────┘
//!            └─ no worker could load it ─► Failed: listed, but not loaded
//! ```
//!
//! Every model has workers, and a supervisor, of its own: what happens to them touches no other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::message::Failure;
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    registry::{ModelRegistry, RouteError},
    supervisor::Supervisor,
};
use crate::worker::WorkerLauncher;

/// The models that are loaded. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Models {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setup: Arc<WorkerLauncher>,
    router: Arc<ModelRegistry>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By the name or digest under which they were loaded.
    loaded: BTreeMap<String, Loaded>,
    /// The gateway goes down: nothing more is loaded.
    closed: bool,
}

/// A model with workers.
#[derive(Debug)]
struct Loaded {
    workers: usize,
    phase: watch::Receiver<Phase>,
    unload: watch::Sender<bool>,
}

/// How far its task has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Ready,
    Failed(Failure),
    Gone,
}

/// Why a model was not loaded or unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No worker could load it.
    #[error("the model `{model}` could not be loaded: {}", failure.message)]
    Failed {
        /// Which.
        model: String,
        /// Its last worker's words.
        failure: Failure,
    },
    /// As many are loaded as may be.
    #[error(
        "{max} models are loaded, as many as `models.max_loaded` allows; unload one of {} first, with \
         POST /v1/models/NAME/unload", loaded.join(", ")
    )]
    TooMany {
        /// How many may be.
        max: usize,
        /// Which are.
        loaded: Vec<String>,
    },
    /// It is loaded with another number of workers.
    #[error(
        "the model `{model}` is loaded already, with {workers} worker(s); unload it first to change that"
    )]
    OtherWorkers {
        /// Which.
        model: String,
        /// How many it has.
        workers: usize,
    },
    /// It is being unloaded.
    #[error("the model `{0}` is being unloaded; load it again when that is done")]
    Unloading(String),
    /// Somebody unloaded it before it was ready.
    #[error("the model `{0}` was unloaded before it was ready")]
    Unloaded(String),
    /// It is not loaded.
    #[error(transparent)]
    NotLoaded(RouteError),
    /// The gateway is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Models {
    /// None is loaded.
    pub fn new(setup: WorkerLauncher, router: Arc<ModelRegistry>) -> Self {
        Self { inner: Arc::new(Inner { setup: Arc::new(setup), router, table: Mutex::default() }) }
    }

    /// Loads the model with this name or digest in `workers` workers, or in the configured number of them, and
    /// returns the name under which it is listed once a worker serves. One that is loaded is not loaded again.
    /// Needs a runtime; dropping the future stops waiting, not loading.
    pub async fn load(&self, id: &str, workers: Option<usize>) -> Result<String, ModelError> {
        let (name, mut phase) = self.inner.begin(id, workers)?;
        let settled = phase.wait_for(|phase| *phase != Phase::Loading).await.map(|phase| phase.clone());
        match settled {
            Ok(Phase::Ready) => Ok(name),
            Ok(Phase::Failed(failure)) => Err(ModelError::Failed { model: name, failure }),
            Ok(Phase::Loading | Phase::Gone) | Err(_) => Err(ModelError::Unloaded(name)),
        }
    }

    /// Lets the model with this name or digest finish what it has, ends its workers, and returns its name.
    /// Streams that are left after `patience` end with an error event; without one they have all the time they
    /// need. Dropping the future stops waiting, not unloading.
    pub async fn unload(&self, id: &str, patience: Option<Duration>) -> Result<String, ModelError> {
        let (name, mut phase) = self.inner.end(id)?;
        let Some(phase) = &mut phase else { return Ok(name) };
        let impatient = async {
            match patience {
                Some(patience) => sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = gone(phase) => return Ok(name),
            () = impatient => {}
        }
        for link in self.inner.router.links_of(&name) {
            warn!(model = name, streams = link.live_streams(), "ending the streams that are left");
            link.lose("its model was unloaded");
        }
        gone(phase).await;
        Ok(name)
    }

    /// Loads nothing more, and gives up what is being loaded. Models that serve go on.
    pub fn close(&self) {
        let mut table = self.inner.table();
        table.closed = true;
        for loaded in table.loaded.values().filter(|loaded| *loaded.phase.borrow() == Phase::Loading) {
            loaded.unload.send_replace(true);
        }
    }

    /// Unloads everything. Returns when all workers are gone.
    pub async fn drain(&self) {
        self.close();
        let phases: Vec<_> = {
            let table = self.inner.table();
            for (name, loaded) in &table.loaded {
                self.inner.router.set_draining(name);
                loaded.unload.send_replace(true);
            }
            table.loaded.values().map(|loaded| loaded.phase.clone()).collect()
        };
        for mut phase in phases {
            gone(&mut phase).await;
        }
    }
}

/// Returns when the model's workers are gone.
async fn gone(phase: &mut watch::Receiver<Phase>) {
    // An error means that its task is gone, and its workers with it.
    let _ = phase.wait_for(|phase| matches!(phase, Phase::Failed(_) | Phase::Gone)).await;
}

impl Inner {
    /// The name of the model, and its phase from now on.
    fn begin(
        self: &Arc<Self>,
        id: &str,
        workers: Option<usize>,
    ) -> Result<(String, watch::Receiver<Phase>), ModelError> {
        let mut table = self.table();
        if table.closed {
            return Err(ModelError::ShuttingDown);
        }
        if let Some((name, loaded)) = table.find(&self.router, id) {
            if *loaded.unload.borrow() {
                return Err(ModelError::Unloading(name));
            }
            if workers.is_some_and(|workers| workers != loaded.workers) {
                return Err(ModelError::OtherWorkers { model: name, workers: loaded.workers });
            }
            let phase = loaded.phase.clone();
            return Ok((name, phase));
        }
        // No name has them, and they would end up in logs.
        if id.chars().any(char::is_control) {
            return Err(ModelError::NotLoaded(self.router.unknown(id)));
        }
        let max = self.setup.config.max_loaded;
        if table.loaded.len() >= max {
            let loaded = table.loaded.keys().map(|name| format!("`{name}`")).collect();
            return Err(ModelError::TooMany { max, loaded });
        }
        let name = id.to_owned();
        let workers = workers.unwrap_or(self.setup.config.workers.count);
        info!(model = name, workers, "loading");
        let (sender, phase) = watch::channel(Phase::Loading);
        let (unload, unloading) = watch::channel(false);
        self.router.add(&name, workers);
        let supervisor = Supervisor::start(&self.setup, &self.router, &name, workers);
        tokio::spawn(Arc::clone(self).keep(name.clone(), supervisor, sender, unloading));
        table.loaded.insert(name.clone(), Loaded { workers, phase: phase.clone(), unload });
        Ok((name, phase))
    }

    /// The name of the model, and its phase from now on; none if it had only failed to load.
    fn end(&self, id: &str) -> Result<(String, Option<watch::Receiver<Phase>>), ModelError> {
        let table = self.table();
        match table.find(&self.router, id) {
            Some((name, loaded)) => {
                info!(model = name, "unloading");
                self.router.set_draining(&name);
                loaded.unload.send_replace(true);
                let phase = loaded.phase.clone();
                Ok((name, Some(phase)))
            }
            None if self.router.remove(id) => Ok((id.to_owned(), None)),
            None => Err(ModelError::NotLoaded(self.router.unknown(id))),
        }
    }

    /// A model's task, from its supervisor's start until its workers are gone.
    async fn keep(
        self: Arc<Self>,
        name: String,
        mut supervisor: Supervisor,
        phase: watch::Sender<Phase>,
        mut unload: watch::Receiver<bool>,
    ) {
        let ready = tokio::select! {
            ready = supervisor.wait_ready() => ready,
            // An error means that nobody can ask for it any more.
            _ = unload.wait_for(|unload| *unload) => Ok(()),
        };
        if ready.is_ok() && !*unload.borrow() {
            phase.send_replace(Phase::Ready);
            let _ = unload.wait_for(|unload| *unload).await;
        }
        supervisor.drain().await;
        self.setup.metrics.forget_model(&name);
        // The table first: who hears of the end may load it again at once.
        let mut table = self.table();
        table.loaded.remove(&name);
        let end = match ready {
            Ok(()) => {
                info!(model = name, "unloaded");
                self.router.remove(&name);
                Phase::Gone
            }
            Err(failure) => {
                warn!(model = name, why = failure.message, "the model could not be loaded");
                self.router.set_failed(&name, failure.message.clone());
                Phase::Failed(failure)
            }
        };
        drop(table);
        phase.send_replace(end);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn find(&self, router: &ModelRegistry, id: &str) -> Option<(String, &Loaded)> {
        let name = router.name_of(id)?;
        let loaded = self.loaded.get(&name)?;
        Some((name, loaded))
    }
}
