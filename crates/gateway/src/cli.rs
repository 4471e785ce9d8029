//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// What no flag says: a key in a command line could be read by every user of the machine.
const ENVIRONMENT: &str = "Environment:
  KR_API_KEYS   Keys of those who may use the server, as name:key,name:key [default: everybody may]
  KR_API_KEY    One such key, without a name
  KR_ADMIN_KEY  Key that allows to load and unload models over HTTP
  RUST_LOG      What is logged to standard error [default: log.filter of the configuration]";

/// Serves models over an OpenAI-compatible HTTP interface.
///
/// Starts worker processes that run the models, and prints `ready http://HOST:PORT` once every model
/// has a worker that can answer. A flag beats the same setting of the configuration file, which SIGHUP
/// makes it read again.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(
    name = "kr-gateway",
    version,
    after_help = ENVIRONMENT,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How to serve.
    #[command(flatten)]
    pub flags: Flags,
}

/// What to do instead of serving.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Check the configuration and print what would be used.
    ///
    /// Reads the same files, flags and variables as the server does, and starts nothing. Keys are not
    /// shown. Exits with 1 if the configuration can't be used, and says where the mistake is.
    CheckConfig(Flags),
}

/// How to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Flags {
    /// Address to listen on [default: 127.0.0.1].
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,

    /// Port to listen on; 0 takes any free one [default: 8080].
    #[arg(long)]
    pub port: Option<u16>,

    /// Listen beyond loopback without API keys and without TLS.
    #[arg(long)]
    pub allow_insecure: bool,

    /// Number of worker processes of each model [default: 1].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// Model to serve: a name or digest in the artifact store. May be given several times.
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,

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
