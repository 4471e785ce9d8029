//! The worker's command line. The gateway writes it; a person may, to look at a worker alone.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Runs one model on MLX for a gateway.
///
/// The gateway starts it and speaks to it over shared memory; it ends when the gateway does.
#[derive(Clone, Debug, Parser)]
#[command(name = "kr-worker", version)]
pub struct Cli {
    /// Local socket on which the gateway waits for this worker.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,

    /// Name or digest of the model in the artifact store.
    #[arg(long, value_name = "NAME")]
    pub model: String,

    /// Artifact store; the user's default one if not given.
    #[arg(long, value_name = "DIR", env = "KR_CACHE_DIR")]
    pub store: Option<PathBuf>,

    /// What to verify of the stored model.
    #[arg(long, value_name = "HOW", default_value = "background")]
    pub verify: Verify,

    /// On the CPU: what activations are rounded to before they meet quantized weights.
    #[arg(long, value_name = "TYPE", default_value = "int16")]
    pub activations: Activations,

    /// On the CPU: in what type keys and values are kept.
    #[arg(long, value_name = "TYPE", default_value = "float32")]
    pub kv_type: KvType,

    /// Most sequences that run at the same time; further ones wait.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_running: usize,

    /// Tokens of a prompt that one step computes; the step's other sequences wait that long.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub chunk_tokens: usize,

    /// Memory for keys and values, in MiB; preempted sequences are computed again.
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub kv_mib: u64,
}

/// How a stored model is verified, beyond the size and header of every blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// Not at all.
    Header,
    /// SHA-256 of all blobs before it serves.
    Full,
    /// SHA-256 of all blobs while it serves.
    Background,
}

/// What activations are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    /// As exact as float32.
    Int16,
    /// Faster on some CPUs, less exact.
    Int8,
}

/// In what type keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvType {
    /// As they were computed.
    Float32,
    /// In half the memory, a little less exact.
    Float16,
}
