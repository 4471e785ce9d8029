//! The table of models and their workers.
//!
//! [`Models`](super::Models) and the workers' tasks write it; requests, `/readyz` and the model list read it. Nothing
//! else keeps a model's phase or its workers' states.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::{
    memory::MemoryShare,
    message::{Failure, Heartbeat},
};
use tokio::sync::{Notify, watch};

use super::{
    evict::Resident,
    memory::{Grant, MemoryBudget},
    model::{Entered, Model, Phase, Service},
    restart::RestartOrders,
    route::{self, Route, RouteError, RouteRequest},
    status::{ModelState, ModelStatus, WorkerStatus},
    stored::Listing,
};
use crate::worker::{WorkerId, WorkerState, link::Link};

/// The models and their workers.
#[derive(Debug, Default)]
pub struct ModelRegistry {
    table: RwLock<Table>,
}

/// What the registry's lock guards.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In the order in which their loading began.
    models: Vec<Model>,
    /// Set once, when the gateway shuts down: nothing more is loaded.
    closed: watch::Sender<bool>,
    /// Tells of every change of a model's phase or its workers' states.
    changes: watch::Sender<()>,
    /// Told when there may be room for another model.
    freed: Arc<Notify>,
}

/// Models that could not be loaded and are still listed; older ones are forgotten.
const MAX_FAILED: usize = 8;

impl ModelRegistry {
    /// The name of the model with this name or digest, if it takes requests. Its workers may be on their way.
    ///
    /// # Errors
    /// The model is not loaded or is being unloaded.
    pub fn resolve(&self, id: &str) -> Result<String, RouteError> {
        route::resolve(&self.read().models, id)
    }

    /// The ready worker of the model with this name or digest that is best for `request`, which came while the model
    /// took requests.
    ///
    /// # Errors
    /// The model is not loaded or its workers are being ended, or none of them is ready.
    pub fn route(&self, id: &str, request: RouteRequest) -> Result<Route, RouteError> {
        route::route(&self.read().models, id, request)
    }

    /// A request comes for the model with this name or digest.
    pub(super) fn enter(&self, id: &str) -> Entered {
        route::find(&self.read().models, id).map_or(Entered::Absent, Model::enter)
    }

    /// The ready worker of the model with this name or digest that has the fewest operations to do.
    ///
    /// # Errors
    /// Those of [`ModelRegistry::route`].
    pub fn route_operation(&self, id: &str) -> Result<Route, RouteError> {
        route::route_operation(&self.read().models, id)
    }

    /// The name of the only model that takes requests.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn only_model(&self) -> Result<String, RouteError> {
        route::only(&self.read().models)
    }

    /// Returns when a worker of the model with this name or digest is ready, however long that takes.
    ///
    /// # Errors
    /// The model is not loaded, or is so no longer.
    pub async fn usable(&self, id: &str) -> Result<(), RouteError> {
        // Subscribed before the look, so that a change between the two is not missed.
        let mut changes = self.read().changes.subscribe();
        while !route::is_usable(&self.read().models, id)? {
            // It fails if the table is gone, and the gateway with it.
            let _ = changes.changed().await;
        }
        Ok(())
    }

    /// The name under which the model with this name or digest is known.
    pub fn name_of(&self, id: &str) -> Option<String> {
        route::find(&self.read().models, id).map(|model| model.name.clone())
    }

    /// [`RouteError::UnknownModel`] for `id`, with what is served instead, and what could be: `others`.
    pub(super) fn unknown<'a>(&self, id: &str, others: impl Iterator<Item = &'a str>) -> RouteError {
        route::unknown(&self.read().models, id, others)
    }

    /// Whether a request for some model would be taken.
    pub fn is_ready(&self) -> bool {
        self.read().models.iter().any(|model| model.state() == ModelState::Ready)
    }

    /// Whether a model can't be used that was named at the start or loaded by an administrator.
    pub(super) fn misses_one(&self) -> bool {
        self.read().models.iter().any(Model::is_missed)
    }

    /// All workers' states, model by model.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.read().models.iter().flat_map(Model::worker_statuses).collect()
    }

    /// All models: those that are loaded, and those that lately could not be.
    pub fn models(&self) -> Vec<ModelStatus> {
        self.read().models.iter().map(Model::status).collect()
    }

    /// The model with this name or digest.
    pub fn model(&self, id: &str) -> Option<ModelStatus> {
        route::find(&self.read().models, id).map(Model::status)
    }

    /// The links of all workers that have streams, or may get some.
    pub fn links(&self) -> Vec<Link> {
        self.read().models.iter().flat_map(links).collect()
    }

    /// The last heartbeats of the model's workers that serve. `None` if it is not loaded.
    pub fn heartbeats(&self, name: &str) -> Option<Vec<Heartbeat>> {
        let table = self.read();
        let model = table.loaded().find(|model| model.name == name)?;
        Some(model.services().map(|service| service.link.heartbeat()).collect())
    }

    /// Returns when no request needs the model any more.
    pub(super) async fn unused(&self, name: &str) {
        let usage = self.read().loaded().find(|model| model.name == name).map(Model::usage);
        if let Some(usage) = usage {
            usage.unused().await;
        }
    }

    /// The links of the model's workers that have streams, or may get some.
    pub(super) fn links_of(&self, name: &str) -> Vec<Link> {
        self.read().models.iter().filter(|model| model.name == name).flat_map(links).collect()
    }

    /// The worker serves from now on.
    pub(super) fn set_ready(&self, worker: &WorkerId, service: Service) {
        self.change(&worker.model, |model| model.set_ready(worker, service));
        // What memory is left is known now.
        self.read().freed.notify_one();
    }

    /// The worker does not serve (any more), and `note` says why.
    pub(super) fn set_state(&self, worker: &WorkerId, state: WorkerState, note: Option<String>) {
        self.change(&worker.model, |model| model.set_state(worker, state, note));
    }

    /// The worker's first process failed. To be called once for a worker, and only if it never served.
    pub(super) fn first_failed(&self, worker: &WorkerId, failure: Failure) {
        self.change(&worker.model, |model| model.first_failed(failure));
    }

    /// What the model's workers may use of memory.
    pub(super) fn memory_share(&self, name: &str) -> MemoryShare {
        let table = self.read();
        let model = table.models.iter().find(|model| model.name == name);
        model.map_or(MemoryShare::UNLIMITED, |model| model.memory().share)
    }

    /// What a verification found to be wrong with the stored model, if anything.
    pub(super) fn set_damage(&self, name: &str, damage: Option<String>) {
        self.change(name, |model| model.set_damage(damage));
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Model)) {
        let mut table = self.write();
        if let Some(model) = table.find_mut(name) {
            change(model);
        }
        table.changes.send_replace(());
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For changes that depend on more than one model.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Adds a model that `workers` workers begin to load, in place of an earlier attempt. Returns its phases, and what
    /// the workers' tasks receive.
    pub(super) fn add(&mut self, name: &str, workers: usize) -> (watch::Receiver<Phase>, Vec<RestartOrders>) {
        // A clock before 1970 must not fail a load.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let (model, orders) = Model::new(name, workers, since);
        let model = model.telling(&self.freed);
        let phases = model.phases();
        self.models.retain(|model| model.name != name);
        self.models.push(model);
        self.changes.send_replace(());
        (phases, orders)
    }

    /// What a model that was added may use of memory.
    pub(super) fn grant(&mut self, name: &str, grant: Grant) {
        if let Some(model) = self.find_mut(name) {
            *model.memory_mut() = grant;
        }
    }

    /// Bytes that are reserved for models.
    pub(super) fn reserved(&self) -> u64 {
        self.loaded().fold(0, |all, model| all.saturating_add(model.memory().reserved))
    }

    /// The phases of a model that has all the memory that was left, because nothing is known of it.
    pub(super) fn unknown_size(&self) -> Option<watch::Receiver<Phase>> {
        self.loaded().find(|model| !model.memory().is_known).map(Model::phases)
    }

    /// What the store says of models is known now.
    pub(super) fn learn(&mut self, budget: &MemoryBudget, stored: &Listing) {
        for model in &mut self.models {
            let found = stored.sized(&model.name);
            model.memory_mut().learn(budget, found.as_deref());
        }
    }

    /// The models that have workers.
    pub(super) fn loaded(&self) -> impl Iterator<Item = &Model> {
        self.models.iter().filter(|model| !model.has_failed())
    }

    /// The model with this name or digest, if it has workers.
    pub(super) fn find_loaded(&self, id: &str) -> Option<&Model> {
        route::find(&self.models, id).filter(|model| !model.has_failed())
    }

    /// A request comes for the model with this name.
    pub(super) fn enter(&self, name: &str) -> Entered {
        self.models.iter().find(|model| model.name == name).map_or(Entered::Absent, Model::enter)
    }

    /// The phases of the model with this name.
    pub(super) fn phases(&self, name: &str) -> Option<watch::Receiver<Phase>> {
        self.models.iter().find(|model| model.name == name).map(Model::phases)
    }

    /// The models that have workers, for what decides on them, with their names.
    pub(super) fn residents(&self, pin_named: bool) -> (Vec<&str>, Vec<Resident>) {
        self.loaded().map(|model| (model.name.as_str(), model.resident(pin_named))).unzip()
    }

    /// Told when there may be room for another model.
    pub(super) fn freed(&self) -> Arc<Notify> {
        Arc::clone(&self.freed)
    }

    /// Somebody who is responsible for the server wants the model loaded.
    pub(super) fn set_named(&mut self, name: &str) {
        if let Some(model) = self.find_mut(name) {
            model.set_named();
        }
    }

    /// The model's workers are ended from now on, whatever they have.
    pub(super) fn end_workers(&mut self, name: &str) {
        if let Some(model) = self.find_mut(name) {
            model.end_workers();
        }
        self.changes.send_replace(());
    }

    /// The model takes nothing new from now on. Returns its phases, if it is there.
    pub(super) fn drain(&mut self, name: &str) -> Option<watch::Receiver<Phase>> {
        let model = self.find_mut(name)?;
        model.drain();
        let phases = model.phases();
        self.changes.send_replace(());
        Some(phases)
    }

    /// Ends a model whose workers are gone: it leaves the table, or stays listed as failed if it could not be loaded.
    pub(super) fn end(&mut self, name: &str, failure: Option<Failure>) {
        self.freed.notify_one();
        match failure {
            Some(failure) => self.fail(name, failure),
            None => {
                self.remove(name);
            }
        }
    }

    /// Forgets a model that has no workers. False if it was not known.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(index) = self.models.iter().position(|model| model.name == name) else { return false };
        self.models.remove(index).end();
        self.changes.send_replace(());
        true
    }

    /// Nothing more is loaded, and what is being loaded is given up.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
        self.freed.notify_one();
    }

    /// Whether [`Table::close`] was called, now and later.
    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// See [`RouteError::UnknownModel`].
    pub(super) fn unknown(&self, id: &str) -> RouteError {
        route::unknown(&self.models, id, std::iter::empty())
    }

    fn fail(&mut self, name: &str, failure: Failure) {
        if let Some(model) = self.find_mut(name) {
            model.fail(failure);
        }
        self.changes.send_replace(());
        if self.models.iter().filter(|model| model.has_failed()).count() > MAX_FAILED
            && let Some(oldest) = self.models.iter().position(Model::has_failed)
        {
            self.models.remove(oldest);
        }
    }

    fn find_mut(&mut self, name: &str) -> Option<&mut Model> {
        self.models.iter_mut().find(|model| model.name == name)
    }
}

fn links(model: &Model) -> Vec<Link> {
    model.links().cloned().collect()
}

#[cfg(test)]
mod tests;
