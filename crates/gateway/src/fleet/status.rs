//! What `/readyz` and the model list show.

use protocol::{
    message::{ModelInfo, StepTime, WorkerMemory},
    stored::StoredModel,
};
use serde::Serialize;

use crate::worker::WorkerState;

/// What a model is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// No worker is ready yet.
    Loading,
    /// Requests are taken.
    Ready,
    /// It is being unloaded: it finishes what it has.
    Draining,
    /// It could not be loaded, or all its workers are dead and none has been restarted yet.
    Failed,
    /// It is in the artifact store and not loaded.
    Stored,
}

/// One model, for the model list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// The name or digest under which it was loaded.
    pub name: String,
    /// What it is doing.
    pub state: ModelState,
    /// Why it is not ready, or what is wrong with the stored model.
    pub reason: Option<String>,
    /// Its description by its workers, once one was ready.
    pub info: Option<ModelInfo>,
    /// Its workers.
    pub workers: usize,
    /// Those of them that are ready.
    pub ready_workers: usize,
    /// When its loading began, in Unix seconds; of one that is only stored, when it was imported.
    pub since: u64,
    /// What the store has under its name, where that is known.
    pub stored: Option<StoredModel>,
    /// Of an adapter the model whose workers serve it, as far as it is known.
    pub parent: Option<String>,
}

impl From<StoredModel> for ModelStatus {
    /// A model that is stored and not loaded.
    fn from(stored: StoredModel) -> Self {
        let defect = stored.defect.as_ref();
        Self {
            name: stored.id().to_owned(),
            state: if defect.is_some() { ModelState::Failed } else { ModelState::Stored },
            reason: defect.map(|defect| defect.message.clone()),
            info: None,
            workers: 0,
            ready_workers: 0,
            since: stored.imported_at,
            parent: stored.base.clone(),
            stored: Some(stored),
        }
    }
}

/// One worker, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// The model that it loads or serves.
    pub model: String,
    /// Its number among the model's workers, from 0.
    pub worker: usize,
    /// What it is doing.
    pub state: WorkerState,
    /// Live streams on it.
    pub streams: usize,
    /// Tokens that it has still to compute for them, as far as can be told.
    pub outstanding_tokens: u64,
    /// What it reported about itself, once it serves.
    #[serde(flatten)]
    pub work: Option<WorkerWork>,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a serving worker reported about itself, for `/readyz`.
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
    /// Resident memory of its process in bytes, with the weights that it has mapped; 0 if its system does not tell.
    pub memory_bytes: u64,
    /// What that is made of, in bytes.
    pub memory: WorkerMemory,
    /// What its engine has spent its time on.
    pub time: StepTime,
}
