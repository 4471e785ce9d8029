//! What the router knows, for `/readyz` and the model list.

use protocol::message::{Heartbeat, ModelInfo};
use serde::Serialize;

use super::{Model, Phase, Service, Worker};
use crate::worker::WorkerState;

/// What a model is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// No worker is ready, but one is on its way.
    Loading,
    /// Requests are taken.
    Ready,
    /// It is being unloaded: it finishes what it has.
    Draining,
    /// It could not be loaded, or all its workers are dead and none has been restarted yet.
    Failed,
}

/// One model, for the model list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// The name or digest under which it was loaded.
    pub name: String,
    /// What it is doing.
    pub state: ModelState,
    /// Why it is not ready, or what is wrong with what is stored of it.
    pub reason: Option<String>,
    /// What its workers said about it, once one was ready.
    pub info: Option<ModelInfo>,
    /// Its workers.
    pub workers: usize,
    /// Those of them that are ready.
    pub ready_workers: usize,
    /// Unix seconds since when it is loaded.
    pub since: u64,
}

/// One worker's state, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Whose worker it is.
    pub model: String,
    /// Its number among the model's workers, from 0.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Sequences whose client does not read.
    pub paused: u32,
    /// Sequences that wait for a place.
    pub waiting: u32,
    /// Tokens whose keys and values it holds.
    pub kv_tokens: u64,
    /// Most tokens whose keys and values it may hold.
    pub kv_capacity: u64,
}

impl Model {
    pub(super) fn state(&self) -> ModelState {
        let dead = |worker: &Worker| worker.shown() == WorkerState::Exited;
        match self.phase {
            Phase::Draining => ModelState::Draining,
            Phase::Failed(_) => ModelState::Failed,
            Phase::Serving if self.ready_workers() > 0 => ModelState::Ready,
            Phase::Serving if self.workers.iter().all(dead) => ModelState::Failed,
            Phase::Serving => ModelState::Loading,
        }
    }

    pub(super) fn status(&self) -> ModelStatus {
        let state = self.state();
        let of_workers = || self.workers.iter().find_map(|worker| worker.note.clone());
        let reason = match &self.phase {
            Phase::Failed(why) => Some(why.clone()),
            _ if state == ModelState::Failed => of_workers(),
            _ => None,
        };
        ModelStatus {
            name: self.name.clone(),
            state,
            reason: reason.or_else(|| self.damage.clone()),
            info: self.info.clone(),
            workers: self.workers.len(),
            ready_workers: self.ready_workers(),
            since: self.since,
        }
    }

    pub(super) fn worker_statuses(&self) -> impl Iterator<Item = WorkerStatus> {
        self.workers.iter().enumerate().map(|(number, worker)| WorkerStatus {
            model: self.name.clone(),
            worker: number,
            state: match worker.shown() {
                // It may not have been told yet, but it gets nothing new.
                WorkerState::Ready if self.phase == Phase::Draining => WorkerState::Draining,
                state => state,
            },
            streams: worker.service.as_ref().map_or(0, |service| service.link.live_streams()),
            work: worker.service.as_ref().map(Service::work),
            note: worker.note.clone(),
        })
    }

    fn ready_workers(&self) -> usize {
        self.workers.iter().filter_map(Worker::ready).count()
    }
}

impl Worker {
    /// Its link may know of its death a moment before the supervisor does.
    fn shown(&self) -> WorkerState {
        let dead = self.state == WorkerState::Ready && self.ready().is_none();
        if dead { WorkerState::Exited } else { self.state }
    }
}

impl Service {
    fn work(&self) -> WorkerWork {
        let Heartbeat { step, runnable, paused, waiting, kv_tokens, kv_capacity, .. } = self.link.heartbeat();
        let ModelInfo { load_micros, tokenizer_micros, .. } = self.info;
        let pid = self.link.pid();
        WorkerWork {
            pid,
            load_micros,
            tokenizer_micros,
            step,
            running: runnable,
            paused,
            waiting,
            kv_tokens,
            kv_capacity,
        }
    }
}
