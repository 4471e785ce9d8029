//! Worker to gateway.

use serde::{Deserialize, Serialize};

use super::{
    Failure, StreamEvent,
    limits::{self, MAX_EVENTS},
};

/// Body of a [`FrameKind::Report`](crate::frame::FrameKind) frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// The model is loaded; submissions are served from now on.
    Ready(ModelInfo),
    /// The model can't be loaded; the worker exits after this.
    LoadFailed(Failure),
    /// The worker is alive, and this is what it does.
    Heartbeat(Heartbeat),
    /// Everything that one engine step (or one preparation) produced, for all of its streams.
    Events(#[serde(deserialize_with = "limits::at_most::<_, _, MAX_EVENTS>")] Vec<StreamEvent>),
    /// Every submission before [`Submission::Drain`](super::Submission::Drain) has had its terminal event; the worker
    /// exits after this.
    Drained,
    /// The stored model was read whole, while it served, and is what it should be.
    Verified(Verified),
    /// The stored model was read whole, while it served, and is not what it should be: what was found is set aside,
    /// and the model can't be loaded again until it is repaired.
    Damaged(Failure),
}

/// What verifying cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Bytes whose SHA-256 was computed.
    pub bytes: u64,
    /// Microseconds that it took.
    pub micros: u64,
}

/// What a worker serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The name that clients use.
    pub name: String,
    /// SHA-256 of the artifact's manifest, in hex.
    pub digest: String,
    /// `model_type` of the model's configuration.
    pub architecture: String,
    /// Most tokens of prompt and output together.
    pub context_length: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Bytes of mapped weights.
    pub weight_bytes: u64,
    /// Microseconds from process start until the weights were usable, without the tokenizer.
    pub load_micros: u64,
    /// Microseconds for reading the tokenizer.
    pub tokenizer_micros: u64,
    /// Most bytes of keys and values that the worker will have.
    pub kv_bytes: u64,
    /// Bytes that are set aside for anything else than these and the mapped weights.
    pub other_bytes: u64,
    /// The model that drafts tokens for it. Its weights, keys and values are counted as well.
    pub draft_model: Option<String>,
    /// How many numbers its embeddings have. `None`: it generates text; any other embeds text and does nothing else.
    pub embedding_size: Option<u32>,
}

/// A sign of life. The engine is stuck if `step` stands still while `runnable > 0`, or `progress` does, which shows it
/// sooner; preparation is stuck if `oldest_preparation_millis` keeps growing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Engine steps since the start.
    pub step: u64,
    /// Sequences in the running set that the next step can extend.
    pub runnable: u32,
    /// Sequences that can't go on until their client's side gives credit.
    pub paused: u32,
    /// Sequences that wait for a place in the running set.
    pub waiting: u32,
    /// How long the oldest prompt in preparation has been worked on; 0 if none is.
    pub oldest_preparation_millis: u64,
    /// Tokens whose keys and values are held.
    pub kv_tokens: u64,
    /// Most tokens whose keys and values may be held.
    pub kv_capacity: u64,
    /// Changes while the engine works, also within a step. `None` where that is not known: a step is then one piece.
    pub progress: Option<u64>,
    /// Resident memory of the process, with the weights that it has mapped; 0 if the system does not tell.
    pub memory_bytes: u64,
    /// What that is made of, as far as the worker knows.
    pub memory: WorkerMemory,
    /// What the engine has spent its time on.
    pub time: StepTime,
    /// Times that a sequence had to give up its keys and values so that others could go on. They are computed again.
    pub preemptions: u64,
    /// Prefixes on disk.
    pub disk: DiskPrefixes,
}

/// What a worker uses of keys and values on disk; all zero without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPrefixes {
    /// Times that the disk had what follows a sequence's tokens in memory, and began to read it.
    pub reads: u64,
    /// Tokens that came into memory with that.
    pub tokens: u64,
    /// Bytes of all files, as far as the worker knows: it shares them with other workers.
    pub bytes: u64,
}

/// What an engine has spent its time on since it began to serve, in microseconds. Nothing is left out: all together is the
/// time since then, but for the step that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// Handling messages, guessing tokens, planning steps.
    pub schedule_micros: u64,
    /// Saying what the model has to compute.
    pub build_micros: u64,
    /// Computing it.
    pub evaluate_micros: u64,
    /// Choosing tokens.
    pub sample_micros: u64,
    /// Turning them into text, and reporting it.
    pub emit_micros: u64,
    /// Waiting for something to do.
    pub idle_micros: u64,
}

/// What a worker has in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerMemory {
    /// Weights, mapped from files or copied.
    pub weights: u64,
    /// Keys and values that are held, of running requests and kept ones.
    pub kv: u64,
    /// Most that may be.
    pub kv_limit: u64,
    /// Those of them that are kept for later requests, whether a running one uses them or not.
    pub kept_prefixes: u64,
    /// MLX's arrays, without weights that are mapped, and on a CPU without keys and values.
    pub mlx_active: u64,
    /// What MLX keeps of freed memory.
    pub mlx_cache: u64,
}
