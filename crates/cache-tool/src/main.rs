//! `cache-tool`: manages the artifact store; only `pull` uses the network.
//!
//! Data goes to stdout, everything said to people goes to stderr.

mod commands;
mod exit;
mod hub;
mod output;
mod progress;

use std::{path::PathBuf, process::ExitCode};

use artifact_store::default_store_dir;
use clap::{Parser, Subcommand};

use commands::{import, inspect, list, prune, pull};

/// Manage the store of models that kr-serve serves from.
#[derive(Debug, Parser)]
#[command(version, after_help = exit::HELP)]
struct Cli {
    /// Folder of the store [default: $KR_CACHE_DIR, or kr-serve in the platform's cache folder]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::Args),
    Import(import::Args),
    List(list::Args),
    Inspect(inspect::Args),
    Prune(prune::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit::code(&error)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let store = match cli.store {
        Some(dir) => dir,
        None => default_store_dir()?,
    };
    match cli.command {
        Command::Pull(args) => pull::run(&store, &args),
        Command::Import(args) => import::run(&store, &args),
        Command::List(args) => list::run(&store, &args),
        Command::Inspect(args) => inspect::run(&store, &args),
        Command::Prune(args) => prune::run(&store, &args),
    }
}
