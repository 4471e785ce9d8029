//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Serves a model over an OpenAI-compatible HTTP interface.
///
/// Starts worker processes that run the model, and prints `ready http://HOST:PORT` once the first
/// of them can answer. A flag beats the same setting of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser)]
#[command(name = "kr-gateway", version)]
pub struct Flags {
    /// Address to listen on [default: 127.0.0.1].
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,

    /// Port to listen on; 0 takes any free one [default: 8080].
    #[arg(long)]
    pub port: Option<u16>,

    /// Number of worker processes [default: 1].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// Model to serve: a name in the artifact store.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,

    /// Configuration file [default: config/runtime.yaml, if there is one].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder of the artifact store [default: the worker's own].
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// The worker's executable [default: kr-worker beside this program].
    #[arg(long, value_name = "PATH")]
    pub worker_bin: Option<PathBuf>,
}
