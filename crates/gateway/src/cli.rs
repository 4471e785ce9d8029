//! The command line.

use std::path::PathBuf;

use clap::{
    Parser,
    builder::{PossibleValuesParser, TypedValueParser},
};
use telemetry::LogFormat;

/// What no flag says: a key in a command line could be read by every user of the machine.
const ENVIRONMENT: &str = "Environment:
  KR_ADMIN_KEY  Key that allows to load and unload models over HTTP
  RUST_LOG      What is logged to standard error [default: info]";

/// Serves models over an OpenAI-compatible HTTP interface.
///
/// Starts worker processes that run the models, and prints `ready http://HOST:PORT` once every model
/// has a worker that can answer. A flag beats the same setting of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser)]
#[command(name = "kr-gateway", version, after_help = ENVIRONMENT)]
pub struct Flags {
    /// Address to listen on [default: 127.0.0.1].
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,

    /// Port to listen on; 0 takes any free one [default: 8080].
    #[arg(long)]
    pub port: Option<u16>,

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

    /// How log lines are written [default: text].
    #[arg(long, value_name = "FORMAT", value_parser = log_format())]
    pub log_format: Option<LogFormat>,
}

fn log_format() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(LogFormat::NAMES).try_map(|name| name.parse())
}
