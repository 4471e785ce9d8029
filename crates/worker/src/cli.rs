//! The worker's command line: what a person needs to see in a list of processes, and to find the gateway. The
//! gateway sends all other options in its greeting ([`WorkerOptions`](protocol::options::WorkerOptions)).

use std::path::PathBuf;

use clap::Parser;

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
}
