//! Loads a model because a request needs it.
//!
//! ```text
//! request ─ loaded? ──────────────────────────────────────────────────────► InUse
//!              │ no                                                           ▲
//!              ▼                 ┌── an idle model leaves, or becomes idle    │ loaded
//!           stored? ── yes ──► room? ── yes ──► load ── the others join it ───┘
//!              │ no                                       │ it can't be
//!              └─► 404                                    └─► the reason, to all of them
//! ```
//!
//! Requests that need room get it in the order in which they came, and so do those that wait for one load. A request
//! that goes away ends its wait, not the load.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    sync::{SemaphorePermit, watch},
    time::timeout,
};
use tracing::info;

use super::{
    evict::{self, Most, Room},
    metrics::UnloadReason,
    model::{Arrival, Entered, Phase},
    models::{ModelError, Models, gone, loaded},
    usage::InUse,
};

/// What a request that needs room can do now.
enum Step {
    /// Its model is there, or is being loaded.
    Entered(Entered),
    /// It has to wait for its own model to leave, before that can be loaded again.
    OwnLeaves(watch::Receiver<Phase>),
    /// It has to wait for another model to leave.
    OtherLeaves(watch::Receiver<Phase>),
    /// It has to wait for another model to become idle.
    AllBusy,
}

impl Models {
    /// The model with this name or digest, for a request. If it is stored and not loaded, and models are loaded on
    /// demand, it is loaded; requests that come meanwhile wait for the same load. What is returned names the model, and
    /// keeps it from being unloaded to make room. Needs a runtime; dropping the future stops waiting, not loading.
    ///
    /// # Errors
    /// There is no such model, it can't be loaded, or not now.
    pub async fn provide(&self, id: &str) -> Result<InUse, ModelError> {
        let registry = &self.context.registry;
        let entered = registry.enter(id);
        if let Entered::Serving(in_use) = entered {
            return Ok(in_use);
        }
        if !self.loads_on_demand() {
            // It may have become ready just now.
            return match (registry.resolve(id), registry.enter(id)) {
                (Ok(_), Entered::Serving(in_use)) => Ok(in_use),
                // Whoever opens the stream waits for a worker.
                (Ok(_), Entered::Loading(arrival)) => Ok(arrival.in_use),
                (Err(error), _) => Err(ModelError::NotLoaded(error)),
                _ => Err(ModelError::Unloaded(id.to_owned())),
            };
        }
        let _place = self.queue_up()?;
        if let Entered::Loading(arrival) = entered {
            return self.join(arrival).await;
        }
        drop(entered);
        let name = self.stored_name(id).await?;
        let waited = self.context.launcher.config.demand.wait_timeout;
        let entered = match timeout(waited, self.enter_with_room(&name)).await {
            Ok(entered) => entered?,
            // An administrator may have loaded it.
            Err(_) => registry.enter(&name),
        };
        match entered {
            Entered::Serving(in_use) => Ok(in_use),
            Entered::Loading(arrival) => self.join(arrival).await,
            Entered::Failed(failure) => Err(ModelError::Failed { model: name, failure }),
            Entered::Leaving(_) => Err(ModelError::StillUnloading { model: name, waited }),
            Entered::Absent => Err(self.no_room(name, waited)),
        }
    }

    /// Why a request waited in vain.
    fn no_room(&self, model: String, waited: Duration) -> ModelError {
        let context = &self.context;
        let (table, stored) = (context.registry.write(), context.stored.latest());
        let workers = context.launcher.config.workers.count;
        let max = context.max_loaded.load(Ordering::Relaxed);
        let memory =
            || context.memory.grant(stored.sized(&model).as_deref(), table.reserved(), workers, true).err();
        match (table.loaded().count() < max).then(memory).flatten() {
            Some(shortage) => ModelError::NoMemoryYet { model, shortage, waited },
            None => ModelError::NoRoom { model, max, waited },
        }
    }

    /// Whether a request loads a model that is stored and not loaded.
    pub fn loads_on_demand(&self) -> bool {
        self.context.launcher.config.demand.on
    }

    /// A place among the requests that wait for models.
    fn queue_up(&self) -> Result<SemaphorePermit<'_>, ModelError> {
        let most = self.context.launcher.config.stream_registry.max_waiting;
        self.context.waiting.try_acquire().map_err(|_| ModelError::Crowded(most))
    }

    /// Waits for the load, behind those that came before.
    async fn join(&self, mut arrival: Arrival) -> Result<InUse, ModelError> {
        let _turn = arrival.turn().await;
        match loaded(&arrival.in_use, &mut arrival.phases).await {
            Ok(()) => Ok(arrival.in_use),
            Err(ModelError::Unloaded(_)) if *self.context.registry.write().closed().borrow() => {
                Err(ModelError::ShuttingDown)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to load the model as soon as there is room, unless somebody else has begun. Requests that need room wait
    /// for each other.
    async fn enter_with_room(&self, name: &str) -> Result<Entered, ModelError> {
        let freed = self.context.registry.write().freed();
        loop {
            let first = self.context.room.lock().await;
            loop {
                match self.step(name)? {
                    Step::Entered(entered) => return Ok(entered),
                    Step::OwnLeaves(mut phases) => {
                        // It may have streams to finish: the others need not wait for that.
                        drop(first);
                        gone(&mut phases).await;
                        break;
                    }
                    Step::OtherLeaves(mut phases) => gone(&mut phases).await,
                    // Whoever is idle since the decision has left word.
                    Step::AllBusy => freed.notified().await,
                }
            }
        }
    }

    /// One look at the table, and what follows from it.
    fn step(&self, name: &str) -> Result<Step, ModelError> {
        let context = &self.context;
        let config = &context.launcher.config;
        let mut table = context.registry.write();
        if *table.closed().borrow() {
            return Err(ModelError::ShuttingDown);
        }
        match table.enter(name) {
            Entered::Absent => {}
            Entered::Leaving(phases) => return Ok(Step::OwnLeaves(phases)),
            entered => return Ok(Step::Entered(entered)),
        }
        let (stored, workers) = (context.stored.latest(), config.workers.count);
        let model = stored.sized(name);
        let model = model.as_deref();
        table.learn(&context.memory, &stored);
        let least = context.memory.least(model, workers);
        let least = least.map_err(|shortage| ModelError::TooLarge { model: name.to_owned(), shortage })?;
        let models = context.max_loaded.load(Ordering::Relaxed);
        let (names, residents) = table.residents(config.demand.pin_named);
        let decision = evict::room(&residents, Most { models, bytes: context.memory.max_bytes() }, least);
        let other = match decision {
            Room::Soon(index) | Room::Evict(index) => names[index].to_owned(),
            Room::Free | Room::Full => String::new(),
        };
        match decision {
            Room::Free => {
                let is_last = !context.memory.expects_more(residents.len() + 1, models);
                let grant = context.memory.grant(model, table.reserved(), workers, is_last);
                let Ok(grant) = grant else { return Ok(Step::AllBusy) };
                let (phases, orders) = table.add(name, workers);
                table.grant(name, grant);
                let entered = table.enter(name);
                context.metrics.count_demand_load();
                self.start(table, name, orders, phases);
                Ok(Step::Entered(entered))
            }
            Room::Full => Ok(Step::AllBusy),
            Room::Soon(_) => Ok(table.phases(&other).map_or(Step::AllBusy, Step::OtherLeaves)),
            Room::Evict(_) => {
                info!(model = other, "unloading an idle model to make room for `{name}`");
                context.metrics.count_unload(UnloadReason::Room);
                Ok(table.drain(&other).map_or(Step::AllBusy, Step::OtherLeaves))
            }
        }
    }
}
