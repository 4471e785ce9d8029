//! How a worker is to work: what the gateway's settings say about it, sent in [`Hello`](crate::handshake::Hello).

use serde::{Deserialize, Serialize};

/// A worker's options. The one definition of them: the gateway fills it from its settings, the worker reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerOptions {
    /// How the stored model is verified.
    pub verify: Verify,
    /// On a CPU: what activations are rounded to before they meet quantized weights.
    pub activations: Activations,
    /// On a CPU: the type in which keys and values are kept.
    pub kv_type: KvType,
    /// Most bytes for keys and values, as far as `memory` has room for them.
    pub kv_bytes: u64,
    /// Whether keys and values of prefixes are kept for later requests, as far as there is memory.
    pub keep_prefixes: bool,
    /// Most bytes on disk for the same, of all models together; 0: none.
    pub prefix_disk_bytes: u64,
    /// Most sequences that run at the same time; further ones wait. At least 1.
    pub max_sequences: u32,
    /// Most tokens of a prompt that one step computes; the step's other sequences wait that long. At least 1.
    pub chunk_tokens: u32,
    /// Most tokens of a sequence that one step guesses and checks; 0: none.
    pub max_draft_tokens: u32,
    /// Name or digest of the stored model that guesses tokens, beside what sequences repeat; `None`: none does.
    pub draft_model: Option<String>,
    /// Most bytes of adapters that are loaded.
    pub adapter_bytes: u64,
    /// Whether the text of a special token means that token inside a message's content too, and not only where the
    /// chat template writes it. Clients can then forge turns.
    pub special_tokens_in_content: bool,
    /// Milliseconds between two heartbeats. At least 1.
    pub heartbeat_millis: u32,
    /// What the model's workers may use of memory, weights included.
    pub memory: MemoryShare,
}

/// What a model's workers may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryShare {
    /// Bytes that all workers of all models may use: `memory.max_bytes`.
    pub max_bytes: u64,
    /// Bytes of it that are left for this model.
    pub left_bytes: u64,
    /// The model's workers. At least 1.
    pub workers: u32,
    /// Whether other models may come: this one then leaves half of what its weights leave, unless it needs more.
    pub leaves_room: bool,
}

/// How a stored model is verified, in addition to the size and header of every blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verify {
    /// Not at all.
    Header,
    /// SHA-256 of all blobs before it serves.
    Full,
    /// SHA-256 of all blobs while it serves.
    #[default]
    Background,
}

/// What activations are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activations {
    /// As exact as float32.
    #[default]
    Int16,
    /// Faster on some CPUs, less exact.
    Int8,
}

/// The type in which keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvType {
    /// As they were computed.
    #[default]
    Float32,
    /// In half the memory, a little less exact.
    Float16,
}

impl Default for WorkerOptions {
    /// What the gateway's settings say if nothing is set.
    fn default() -> Self {
        Self {
            verify: Verify::default(),
            activations: Activations::default(),
            kv_type: KvType::default(),
            kv_bytes: 4 << 30,
            keep_prefixes: true,
            prefix_disk_bytes: 0,
            max_sequences: 64,
            chunk_tokens: 256,
            max_draft_tokens: 8,
            draft_model: None,
            adapter_bytes: 256 << 20,
            special_tokens_in_content: false,
            heartbeat_millis: 500,
            memory: MemoryShare::UNLIMITED,
        }
    }
}

impl MemoryShare {
    /// As much as there may be.
    pub const UNLIMITED: Self =
        Self { max_bytes: u64::MAX, left_bytes: u64::MAX, workers: 1, leaves_room: false };
}

impl Default for MemoryShare {
    fn default() -> Self {
        Self::UNLIMITED
    }
}
