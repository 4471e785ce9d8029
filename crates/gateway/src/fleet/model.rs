//! One model of the registry: its phase and its workers.
//!
//! ```text
//! Loading ─► Ready ─── unload ──► Draining ─► Ending ─► Gone
//!    │ └────────────── unload ──────▲
//!    └─ no worker could load it ─► Failing ─► Failed: listed, but not loaded
//! ```
//!
//! `Draining` lasts until no request needs the model any more, or none may go on. `Failing` and `Ending` last until the
//! last worker is gone.

mod phase;
mod service;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::message::{Failure, ModelInfo};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};

pub(super) use self::{phase::Phase, service::Service};
use super::{
    evict::{Resident, Stage},
    memory::Grant,
    restart::{RestartDesk, RestartOrders, RestartTurn},
    status::{ModelState, ModelStatus, WorkerStatus},
    usage::{InUse, Usage, now},
};
use crate::worker::{WorkerId, WorkerState, link::Link};

/// A model that is loaded, is being loaded, or could not be.
#[derive(Debug)]
pub(super) struct Model {
    /// The name or digest under which it was loaded.
    pub(super) name: String,
    phase: watch::Sender<Phase>,
    workers: Vec<Worker>,
    /// Workers whose first process has not failed.
    not_failed: usize,
    /// From the last worker that became ready.
    info: Option<ModelInfo>,
    /// What a verification found to be wrong with the stored model.
    damage: Option<String>,
    /// When its loading began, in Unix seconds.
    since: u64,
    /// It was named at the start, or an administrator loaded it.
    named: bool,
    usage: Arc<Usage>,
    memory: Grant,
    /// Held by the request that waits for the load: the others come after it, in their order.
    turn: Arc<Mutex<()>>,
    /// When it failed.
    failed_at: Option<Instant>,
}

/// What a request finds of its model.
#[derive(Debug)]
pub(super) enum Entered {
    /// It serves, or did, and its workers are coming back.
    Serving(InUse),
    /// It is being loaded.
    Loading(Arrival),
    /// It is being unloaded.
    Leaving(watch::Receiver<Phase>),
    /// It could not be loaded, and that was a moment ago.
    Failed(Failure),
    /// It is not loaded.
    Absent,
}

/// A request that waits for a model that is being loaded, and uses it already.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) in_use: InUse,
    pub(super) phases: watch::Receiver<Phase>,
    turn: Arc<Mutex<()>>,
    /// It came first, so it is its turn.
    first: Option<OwnedMutexGuard<()>>,
}

#[derive(Debug)]
struct Worker {
    state: WorkerState,
    /// Why it is not ready, where there is something to say.
    note: Option<String>,
    /// While it serves, and while it finishes what it has.
    service: Option<Service>,
    restarts: RestartDesk,
}

/// A model that could not be loaded is not tried for every request: not again within this time.
const RETRY_FAILED: Duration = Duration::from_secs(10);

impl Model {
    /// A model that `workers` workers begin to load, and what each of their tasks receives.
    pub(super) fn new(name: &str, workers: usize, since: u64) -> (Self, Vec<RestartOrders>) {
        let worker = |restarts| Worker { state: WorkerState::Spawning, note: None, service: None, restarts };
        let (desks, orders): (Vec<_>, _) = (0..workers).map(|_| RestartDesk::new()).unzip();
        let model = Self {
            name: name.to_owned(),
            phase: watch::Sender::new(Phase::Loading),
            workers: desks.into_iter().map(worker).collect(),
            not_failed: workers,
            info: None,
            damage: None,
            since,
            named: false,
            usage: Usage::new(Arc::default()),
            memory: Grant::UNLIMITED,
            turn: Arc::default(),
            failed_at: None,
        };
        (model, orders)
    }

    /// Tells `freed` each time nobody uses it any more.
    pub(super) fn telling(self, freed: &Arc<Notify>) -> Self {
        Self { usage: Usage::new(Arc::clone(freed)), ..self }
    }

    /// Somebody who is responsible for the server wants it loaded.
    pub(super) fn set_named(&mut self) {
        self.named = true;
    }

    /// What of the memory it has.
    pub(super) fn memory(&self) -> &Grant {
        &self.memory
    }

    pub(super) fn memory_mut(&mut self) -> &mut Grant {
        &mut self.memory
    }

    /// A request comes for it.
    pub(super) fn enter(&self) -> Entered {
        match &*self.phase.borrow() {
            Phase::Ready => Entered::Serving(self.usage.enter(&self.name)),
            Phase::Loading | Phase::Failing(_) => Entered::Loading(Arrival {
                in_use: self.usage.enter(&self.name),
                phases: self.phases(),
                turn: Arc::clone(&self.turn),
                first: Arc::clone(&self.turn).try_lock_owned().ok(),
            }),
            Phase::Draining | Phase::Ending => Entered::Leaving(self.phases()),
            Phase::Failed(failure) if self.failed_at.is_some_and(|at| now() < at + RETRY_FAILED) => {
                Entered::Failed(failure.clone())
            }
            Phase::Failed(_) | Phase::Gone => Entered::Absent,
        }
    }

    /// What decides on making room and on idle models look at.
    pub(super) fn resident(&self, pin_named: bool) -> Resident {
        let (in_use, last_used) = self.usage.get();
        let stage = match *self.phase.borrow() {
            Phase::Loading => Stage::Loading,
            Phase::Ready => Stage::Serving,
            Phase::Failing(_) | Phase::Draining | Phase::Ending | Phase::Failed(_) | Phase::Gone => {
                Stage::Leaving
            }
        };
        // Whoever waits for a model that can't be loaded gets an answer when it has left.
        let in_use = if matches!(*self.phase.borrow(), Phase::Failing(_)) { 0 } else { in_use };
        let (pinned, reserved) = (self.named && pin_named, self.memory.reserved);
        Resident { stage, in_use, last_used, pinned, reserved }
    }

    /// Whether it was named and can't be used yet, or at the moment.
    pub(super) fn is_missed(&self) -> bool {
        self.named && !self.has_failed() && matches!(self.state(), ModelState::Loading | ModelState::Failed)
    }

    /// Its phases from now on.
    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Failed(_))
    }

    /// Whether it takes nothing new.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Draining | Phase::Ending)
    }

    /// Whether not even requests that came before may go on.
    pub(super) fn is_ending(&self) -> bool {
        *self.phase.borrow() == Phase::Ending
    }

    /// Who uses it.
    pub(super) fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.usage)
    }

    /// Whether requests may be routed to it as far as its phase is concerned.
    pub(super) fn takes_requests(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Loading | Phase::Ready | Phase::Failing(_))
    }

    pub(super) fn has_digest(&self, digest: &str) -> bool {
        self.info.as_ref().is_some_and(|info| info.digest == digest)
    }

    /// How many workers it has.
    pub(super) fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Its workers that serve.
    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.numbered_services().map(|(_, service)| service)
    }

    /// Its workers that serve, with their numbers.
    pub(super) fn numbered_services(&self) -> impl Iterator<Item = (usize, &Service)> {
        self.workers.iter().enumerate().filter_map(|(number, worker)| Some((number, worker.ready()?)))
    }

    /// The links of those of its workers that have streams, or may get some.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.workers.iter().filter_map(|worker| Some(&worker.service.as_ref()?.link))
    }

    /// The right to restart a worker; `None` while somebody has it, or if there is no such worker.
    pub(super) fn reserve_restart(&self, number: usize) -> Option<RestartTurn> {
        self.workers.get(number)?.restarts.reserve()
    }

    /// The worker serves from now on.
    pub(super) fn set_ready(&mut self, worker: &WorkerId, service: Service) {
        self.info = Some(service.info.clone());
        self.memory.settle(&service.info);
        if let Some(worker) = self.workers.get_mut(worker.number) {
            (worker.state, worker.note, worker.service) = (WorkerState::Ready, None, Some(service));
        }
        if *self.phase.borrow() == Phase::Loading {
            // Its idle time begins now, however long the load took.
            self.usage.touch();
        }
        self.move_on(|phase| (*phase == Phase::Loading).then_some(Phase::Ready));
    }

    /// The worker does not serve (any more), and `note` says why.
    pub(super) fn set_state(&mut self, worker: &WorkerId, state: WorkerState, note: Option<String>) {
        let Some(worker) = self.workers.get_mut(worker.number) else { return };
        (worker.state, worker.note) = (state, note);
        if state != WorkerState::Draining {
            worker.service = None;
        }
    }

    /// The first process of another worker failed.
    pub(super) fn first_failed(&mut self, failure: Failure) {
        self.not_failed = self.not_failed.saturating_sub(1);
        let all = self.not_failed == 0;
        self.move_on(|phase| (all && *phase == Phase::Loading).then_some(Phase::Failing(failure)));
    }

    /// It takes nothing new from now on. One that can't be loaded ends anyway.
    pub(super) fn drain(&mut self) {
        self.move_on(|phase| matches!(phase, Phase::Loading | Phase::Ready).then_some(Phase::Draining));
    }

    /// Its workers are ended from now on, whatever they have.
    pub(super) fn end_workers(&mut self) {
        self.move_on(|phase| {
            matches!(phase, Phase::Loading | Phase::Ready | Phase::Draining).then_some(Phase::Ending)
        });
    }

    /// It could not be loaded, and its workers are gone.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.workers.clear();
        self.failed_at = Some(now());
        self.phase.send_replace(Phase::Failed(failure));
    }

    /// Its workers are gone, and it leaves the registry.
    pub(super) fn end(self) {
        self.phase.send_replace(Phase::Gone);
    }

    pub(super) fn set_damage(&mut self, damage: Option<String>) {
        self.damage = damage;
    }

    fn move_on(&self, next: impl FnOnce(&Phase) -> Option<Phase>) {
        self.phase.send_if_modified(|phase| match next(phase) {
            Some(next) => {
                *phase = next;
                true
            }
            None => false,
        });
    }

    pub(super) fn state(&self) -> ModelState {
        let dead = |worker: &Worker| worker.shown() == WorkerState::Exited;
        match *self.phase.borrow() {
            Phase::Draining | Phase::Ending | Phase::Gone => ModelState::Draining,
            Phase::Failed(_) => ModelState::Failed,
            _ if self.services().next().is_some() => ModelState::Ready,
            _ if self.workers.iter().all(dead) => ModelState::Failed,
            _ => ModelState::Loading,
        }
    }

    pub(super) fn status(&self) -> ModelStatus {
        let state = self.state();
        let reason = match &*self.phase.borrow() {
            Phase::Failed(failure) => Some(failure.message.clone()),
            _ if state == ModelState::Failed => self.workers.iter().find_map(|worker| worker.note.clone()),
            _ => None,
        };
        ModelStatus {
            name: self.name.clone(),
            state,
            reason: reason.or_else(|| self.damage.clone()),
            info: self.info.clone(),
            workers: self.workers.len(),
            ready_workers: self.services().count(),
            since: self.since,
            stored: None,
            parent: None,
        }
    }

    pub(super) fn worker_statuses(&self) -> impl Iterator<Item = WorkerStatus> {
        let leaving = self.is_leaving();
        self.workers.iter().enumerate().map(move |(number, worker)| WorkerStatus {
            model: self.name.clone(),
            worker: number,
            state: match worker.shown() {
                // It may not have received the order yet, but it gets nothing new.
                WorkerState::Ready if leaving => WorkerState::Draining,
                state => state,
            },
            streams: worker.service.as_ref().map_or(0, |service| service.link.live_streams()),
            outstanding_tokens: worker
                .service
                .as_ref()
                .map_or(0, |service| service.link.outstanding_tokens()),
            work: worker.service.as_ref().map(Service::work),
            note: worker.note.clone(),
        })
    }
}

impl Arrival {
    /// Waits for those that came before, and keeps the others waiting until it is dropped.
    pub(super) async fn turn(&mut self) -> OwnedMutexGuard<()> {
        match self.first.take() {
            Some(turn) => turn,
            None => Arc::clone(&self.turn).lock_owned().await,
        }
    }
}

impl Worker {
    fn ready(&self) -> Option<&Service> {
        self.service.as_ref().filter(|service| self.state == WorkerState::Ready && service.link.is_alive())
    }

    /// The link may notice the worker's death a moment before the worker's task does.
    fn shown(&self) -> WorkerState {
        let dead = self.state == WorkerState::Ready && self.ready().is_none();
        if dead { WorkerState::Exited } else { self.state }
    }
}

#[cfg(test)]
mod tests;
