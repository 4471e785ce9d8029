//! Loads and unloads models while others serve, and restarts their workers. What it decides on is in the
//! [`ModelRegistry`].
//!
//! Every model has its own workers and its own supervisor: what happens to them affects no other model. Here is what
//! administrators ask for; `demand` has what requests ask for.

mod restart;

use std::{
    sync::{Arc, RwLockWriteGuard, atomic::Ordering},
    time::Duration,
};

use protocol::message::{Failure, FailureKind};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    context::Context,
    evict::{self, Idle},
    metrics::{FleetMetrics, UnloadReason},
    model::{Model, Phase},
    registry::{ModelRegistry, Table},
    restart::RestartOrders,
    route::RouteError,
    supervisor::Supervisor,
    usage::now,
};
use crate::worker::WorkerLauncher;

/// Loads and unloads models, and restarts workers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Models {
    pub(super) context: Arc<Context>,
}

/// Why a model was not loaded or unloaded, or a worker not restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No worker could load it.
    #[error("the model `{model}` could not be loaded: {}", failure.message)]
    Failed {
        /// Its name.
        model: String,
        /// The failure of its last worker.
        failure: Failure,
    },
    /// As many are loaded as may be.
    #[error(
        "{max} models are loaded, as many as `models.max_loaded` allows; unload one of {} first, with \
         POST /v1/models/NAME/unload", loaded.join(", ")
    )]
    TooMany {
        /// The limit.
        max: usize,
        /// The names of those that are loaded, in quotes.
        loaded: Vec<String>,
    },
    /// It is loaded with another number of workers.
    #[error(
        "the model `{model}` is loaded already, with {workers} worker(s); unload it first to change that"
    )]
    OtherWorkers {
        /// Its name.
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
    /// It has no such worker, or there is no such model.
    #[error("there is no worker `{worker}`; this server has {known}")]
    UnknownWorker {
        /// What was asked for.
        worker: String,
        /// What there is, for people.
        known: String,
    },
    /// Somebody else restarts it.
    #[error("the worker `{0}` is being restarted already; try again when that is done")]
    Restarting(String),
    /// Its new process died before it served.
    #[error(
        "the worker `{worker}` was restarted and does not serve: {}; it is started again after a while",
        failure.message
    )]
    NotRestarted {
        /// The worker.
        worker: String,
        /// Why the process died.
        failure: Failure,
    },
    /// It took too long, and goes on.
    #[error("`{what}` was not restarted within {} s; that goes on, and /readyz shows how far it is", after.as_secs_f32())]
    NotRestartedYet {
        /// The model or the worker.
        what: String,
        /// The time that was given.
        after: Duration,
    },
    /// As many are loaded as may be, and all of them were in use for as long as a request may wait.
    #[error(
        "there is no room for the model `{model}`: {max} models are loaded, as many as `models.max_loaded` allows, and \
         none of them became idle within {} s; try again later", waited.as_secs_f32()
    )]
    NoRoom {
        /// Its name.
        model: String,
        /// The limit.
        max: usize,
        /// For how long the request waited.
        waited: Duration,
    },
    /// As many requests wait for models as may.
    #[error("{0} requests wait for models to be loaded already; try again later")]
    Crowded(usize),
    /// Whether the model is stored is not known.
    #[error("the list of stored models can't be read; the server's log says why")]
    StoreUnreadable,
    /// The gateway is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// What loading a model takes.
enum Begun {
    /// It is loaded, or another request loads it.
    Already { name: String, phases: watch::Receiver<Phase> },
    /// It was added to the table, and needs a supervisor, whose workers receive these.
    New { orders: Vec<RestartOrders>, phases: watch::Receiver<Phase> },
}

impl Models {
    /// Over `registry`, which has no models yet.
    pub fn new(launcher: WorkerLauncher, registry: Arc<ModelRegistry>, metrics: FleetMetrics) -> Self {
        Self { context: Arc::new(Context::new(launcher, registry, metrics)) }
    }

    /// As many models may be loaded from now on. Those that are loaded stay.
    pub fn set_max_loaded(&self, max: usize) {
        self.context.max_loaded.store(max, Ordering::Relaxed);
        // Whoever waits for room looks again.
        self.context.registry.write().freed().notify_one();
    }

    /// Loads the model with this name or digest in `workers` workers, or in the configured number of them, and
    /// returns the name under which it is listed once a worker serves. One that is loaded is not loaded again, but it
    /// counts as named from then on, whatever loaded it.
    /// Needs a runtime; dropping the future stops waiting, not loading.
    ///
    /// # Errors
    /// It can't be loaded, or not now.
    pub async fn load(&self, id: &str, workers: Option<usize>) -> Result<String, ModelError> {
        let (name, mut phases) = self.begin(id, workers)?;
        loaded(&name, &mut phases).await?;
        Ok(name)
    }

    /// Lets the model with this name or digest finish what it has, ends its workers, and returns its name.
    /// Streams that are left after `drain_timeout` end with an error event; without one they have all the time
    /// they need. Dropping the future stops waiting, not unloading.
    ///
    /// # Errors
    /// The model is not loaded.
    pub async fn unload(&self, id: &str, drain_timeout: Option<Duration>) -> Result<String, ModelError> {
        let (name, phases) = self.end(id)?;
        let Some(mut phases) = phases else { return Ok(name) };
        let timed_out = async {
            match drain_timeout {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = gone(&mut phases) => return Ok(name),
            () = timed_out => {}
        }
        // First nothing goes on elsewhere, then everything ends.
        self.context.registry.write().end_workers(&name);
        for link in self.context.registry.links_of(&name) {
            warn!(model = name, streams = link.live_streams(), "ending the streams that are left");
            link.fail_all("its model was unloaded");
        }
        gone(&mut phases).await;
        Ok(name)
    }

    /// Loads nothing more, and gives up what is being loaded. Models that serve go on.
    pub fn close(&self) {
        self.context.registry.write().close();
    }

    /// Unloads everything, with no regard for requests. Returns when all workers are gone.
    pub async fn drain(&self) {
        let phases: Vec<_> = {
            let mut table = self.context.registry.write();
            table.close();
            let names: Vec<_> = table.loaded().map(|model| model.name.clone()).collect();
            names.iter().for_each(|name| table.end_workers(name));
            names.iter().filter_map(|name| table.phases(name)).collect()
        };
        for mut phases in phases {
            gone(&mut phases).await;
        }
    }

    /// Begins to load a model unless it is loaded. Returns its name and its phases.
    fn begin(
        &self,
        id: &str,
        workers: Option<usize>,
    ) -> Result<(String, watch::Receiver<Phase>), ModelError> {
        let config = &self.context.launcher.config;
        let mut table = self.context.registry.write();
        let max_loaded = self.context.max_loaded.load(Ordering::Relaxed);
        match begin(&mut table, id, workers, config.workers.count, max_loaded)? {
            Begun::Already { name, phases } => {
                table.set_named(&name);
                Ok((name, phases))
            }
            Begun::New { orders, phases } => {
                table.set_named(id);
                self.start(table, id, orders, phases.clone());
                Ok((id.to_owned(), phases))
            }
        }
    }

    /// Starts the workers of a model that was added to the table just now.
    pub(super) fn start(
        &self,
        table: RwLockWriteGuard<'_, Table>,
        name: &str,
        orders: Vec<RestartOrders>,
        phases: watch::Receiver<Phase>,
    ) {
        let closed = table.closed();
        drop(table);
        info!(model = name, workers = orders.len(), "loading");
        let supervisor = Supervisor::start(&self.context, name, orders);
        tokio::spawn(keep(Arc::clone(&self.context), name.to_owned(), supervisor, phases, closed));
    }

    /// Begins to unload a model. Returns its name, and its phases unless it had only failed to load.
    fn end(&self, id: &str) -> Result<(String, Option<watch::Receiver<Phase>>), ModelError> {
        let mut table = self.context.registry.write();
        match table.find_loaded(id).map(|model| model.name.clone()) {
            Some(name) => {
                info!(model = name, "unloading");
                let phases = table.drain(&name);
                Ok((name, phases))
            }
            None if table.remove(id) => Ok((id.to_owned(), None)),
            None => Err(ModelError::NotLoaded(table.unknown(id))),
        }
    }
}

/// Decides whether the model with this name or digest may be loaded, and adds it to the table if it is not there.
fn begin(
    table: &mut Table,
    id: &str,
    workers: Option<usize>,
    default_workers: usize,
    max_loaded: usize,
) -> Result<Begun, ModelError> {
    if *table.closed().borrow() {
        return Err(ModelError::ShuttingDown);
    }
    if let Some(model) = table.find_loaded(id) {
        return already(model, workers);
    }
    // No name has them, and they would end up in logs.
    if id.chars().any(char::is_control) {
        return Err(ModelError::NotLoaded(table.unknown(id)));
    }
    if table.loaded().count() >= max_loaded {
        let mut loaded: Vec<_> = table.loaded().map(|model| format!("`{}`", model.name)).collect();
        loaded.sort();
        return Err(ModelError::TooMany { max: max_loaded, loaded });
    }
    let (phases, orders) = table.add(id, workers.unwrap_or(default_workers));
    Ok(Begun::New { orders, phases })
}

fn already(model: &Model, workers: Option<usize>) -> Result<Begun, ModelError> {
    let name = model.name.clone();
    if model.is_leaving() {
        return Err(ModelError::Unloading(name));
    }
    if workers.is_some_and(|workers| workers != model.worker_count()) {
        return Err(ModelError::OtherWorkers { model: name, workers: model.worker_count() });
    }
    Ok(Begun::Already { name, phases: model.phases() })
}

/// A model's task, from its supervisor's start until its workers are gone.
async fn keep(
    context: Arc<Context>,
    name: String,
    mut supervisor: Supervisor,
    mut phases: watch::Receiver<Phase>,
    mut closed: watch::Receiver<bool>,
) {
    let failure = tokio::select! {
        phase = phases.wait_for(|phase| *phase != Phase::Loading) => match phase.as_deref() {
            Ok(Phase::Failing(failure)) => Some(failure.clone()),
            _ => None,
        },
        _ = closed.wait_for(|closed| *closed) => None,
        () = supervisor.ended() => Some(Failure {
            kind: FailureKind::Internal,
            param: None,
            message: "the supervisor of its workers ended".into(),
        }),
    };
    let ready = *phases.borrow() == Phase::Ready;
    if ready && failure.is_none() {
        tokio::select! {
            // An error means that the model is gone from the table.
            _ = phases.wait_for(|phase| *phase != Phase::Ready) => {}
            () = unload_idle(&context, &name) => {}
        }
        tokio::select! {
            () = context.registry.unused(&name) => {}
            _ = phases.wait_for(|phase| *phase != Phase::Draining) => {}
        }
    }
    context.registry.write().end_workers(&name);
    supervisor.drain().await;
    context.metrics.forget_model(&name);
    match &failure {
        None => info!(model = name, "unloaded"),
        Some(failure) => warn!(model = name, why = failure.message, "the model could not be loaded"),
    }
    context.registry.write().end(&name, failure);
}

/// Returns when the model has been unloaded because nobody used it: it takes nothing more from then on.
async fn unload_idle(context: &Context, name: &str) {
    let demand = context.launcher.config.demand;
    let Some(ttl) = demand.idle_ttl else { return std::future::pending().await };
    loop {
        let next = {
            let mut table = context.registry.write();
            let Some(model) = table.find_loaded(name) else { return };
            let next = evict::idle(&model.resident(demand.pin_named), ttl, now());
            if next == Idle::Unload {
                table.drain(name);
            }
            next
        };
        match next {
            Idle::Unload => {
                info!(model = name, "unloading a model that was idle for {ttl:?}");
                context.metrics.count_unload(UnloadReason::Idle);
                return;
            }
            Idle::Until(then) => sleep_until(then.into()).await,
            Idle::Never => return std::future::pending().await,
        }
    }
}

/// Waits until the model is loaded.
///
/// # Errors
/// It can't be, or was unloaded.
pub(super) async fn loaded(name: &str, phases: &mut watch::Receiver<Phase>) -> Result<(), ModelError> {
    let settled = |phase: &Phase| !matches!(phase, Phase::Loading | Phase::Failing(_));
    let phase = phases.wait_for(settled).await.map(|phase| phase.clone());
    match phase {
        Ok(Phase::Ready) => Ok(()),
        Ok(Phase::Failed(failure)) => Err(ModelError::Failed { model: name.to_owned(), failure }),
        _ => Err(ModelError::Unloaded(name.to_owned())),
    }
}

/// Returns when the model's workers are gone.
pub(super) async fn gone(phases: &mut watch::Receiver<Phase>) {
    // An error means that the model is gone from the table, and its workers with it.
    let _ = phases.wait_for(|phase| matches!(phase, Phase::Failed(_) | Phase::Gone)).await;
}

#[cfg(test)]
mod tests;
