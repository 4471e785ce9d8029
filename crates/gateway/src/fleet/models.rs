//! Loads and unloads models while others serve, and restarts their workers. What it decides on is in the
//! [`ModelRegistry`].
//!
//! Every model has its own workers and its own supervisor: what happens to them affects no other model. Here is what
//! administrators ask for; `demand` has what requests ask for.

mod begin;
mod error;
mod restart;

use std::{
    sync::{Arc, RwLockWriteGuard, atomic::Ordering},
    time::Duration,
};

use begin::{Begun, Limits, begin};
pub use error::ModelError;
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
    model::Phase,
    registry::{ModelRegistry, Table},
    restart::RestartOrders,
    stored::Listing,
    supervisor::Supervisor,
    usage::now,
};
use crate::worker::WorkerLauncher;

/// Loads and unloads models, and restarts workers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Models {
    pub(super) context: Arc<Context>,
}

/// What came of an attempt to begin a load: the model's name and phases, or the phases of what has to come before.
type Attempt = Result<(String, watch::Receiver<Phase>), watch::Receiver<Phase>>;

/// The sizes of stored models hardly ever change.
const SIZE_AGE: Duration = Duration::from_secs(5);

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
    /// Of an adapter it is the base that is loaded.
    /// Needs a runtime; dropping the future stops waiting, not loading.
    ///
    /// # Errors
    /// It can't be loaded, or not now.
    pub async fn load(&self, id: &str, workers: Option<usize>) -> Result<String, ModelError> {
        let id = &*self.target(id).await?.model;
        let (name, mut phases) = loop {
            let stored = self.sizes().await;
            match self.begin(id, workers, &stored)? {
                Ok(begun) => break begun,
                // An error means that the model is gone, which is as good.
                Err(mut other) => drop(other.wait_for(|phase| *phase != Phase::Loading).await),
            }
        };
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

    /// What is known of the store's models, which the table has learned then. The first model has nothing beside it, and is
    /// not kept waiting for that, unless draft models are named: then it has to be known which model has which names.
    async fn sizes(&self) -> Listing {
        let context = &self.context;
        let known = context.stored.latest();
        if !known.has_drafts() && context.registry.write().loaded().next().is_none() {
            return known;
        }
        let stored = context.stored.within(SIZE_AGE).await;
        context.registry.write().learn(&context.memory, &stored);
        stored
    }

    /// Begins to load a model unless it is loaded. Returns its name and its phases; `Err` has the phases of another one
    /// that has to be loaded before.
    fn begin(&self, id: &str, workers: Option<usize>, stored: &Listing) -> Result<Attempt, ModelError> {
        let context = &self.context;
        let mut table = context.registry.write();
        let limits = Limits {
            default_workers: context.launcher.config.workers.count,
            max_loaded: context.max_loaded.load(Ordering::Relaxed),
            memory: &context.memory,
            stored,
        };
        match begin(&mut table, id, workers, &limits)? {
            Begun::After(phases) => Ok(Err(phases)),
            Begun::Already { name, phases } => {
                table.set_named(&name);
                Ok(Ok((name, phases)))
            }
            Begun::New { orders, phases } => {
                table.set_named(id);
                self.start(table, id, orders, phases.clone());
                Ok(Ok((id.to_owned(), phases)))
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
