//! `cache-tool`: manages the artifact store; only `pull` uses the network.
//!
//! Data goes to stdout, everything said to people goes to stderr.

#![warn(clippy::print_stderr)] // foreign text must pass through `output`

mod commands;
mod download;
mod exit;
mod hub;
mod output;
mod progress;
mod store_args;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use commands::{
    completions, export, import, inspect, list, pin, prune, pull, remove, repair, unpin, usage, verify,
};
use store_args::StoreArgs;

/// Manage the store of models that kr-serve serves from.
#[derive(Debug, Parser)]
#[command(version, after_help = exit::HELP)]
struct Cli {
    #[command(flatten)]
    store_args: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::Args),
    Import(import::Args),
    List(list::Args),
    Inspect(inspect::Args),
    Usage(usage::Args),
    Pin(pin::Args),
    Unpin(unpin::Args),
    Remove(remove::Args),
    Prune(prune::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Export(export::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            output::say(&format!("error: {error:#}"));
            exit::code(&error)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let store_args = &cli.store_args;
    let done = match &cli.command {
        Command::Pull(args) => pull::run(store_args, args),
        Command::Import(args) => import::run(store_args, args),
        Command::List(args) => list::run(store_args, args),
        Command::Inspect(args) => inspect::run(store_args, args),
        Command::Usage(args) => usage::run(store_args, args),
        Command::Pin(args) => pin::run(store_args, args),
        Command::Unpin(args) => unpin::run(store_args, args),
        Command::Remove(args) => remove::run(store_args, args),
        Command::Prune(args) => prune::run(store_args, args),
        // These two find damage without failing themselves.
        Command::Verify(args) => return verify::run(store_args, args),
        Command::Repair(args) => return repair::run(store_args, args),
        Command::Export(args) => export::run(store_args, args),
        Command::Completions(args) => completions::run(args, Cli::command()),
    };
    done.map(|()| ExitCode::SUCCESS)
}
