//! `kr-load`: one experiment on a running gateway. Prints its report as one line of JSON.

#![allow(clippy::print_stdout)] // the report is the output

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use load::{
    cancels, chaos,
    client::{Client, Target},
    half_open, leaks, memory, newcomer, open_loop, process, schemas, slow_readers, streams, turns,
};
use serde::Serialize;

/// Puts load on a running gateway and says what its clients saw.
#[derive(Parser)]
#[command(name = "kr-load", version)]
struct Cli {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// Requests at a constant rate, whatever happens to those before.
    OpenLoop(open_loop::Args),
    /// Streams that are open at the same time, each client one after the other.
    Streams(streams::Args),
    /// Some of the streams stop reading for a while.
    SlowReaders(slow_readers::Args),
    /// Requests whose clients leave at random moments.
    Cancels(cancels::Args),
    /// Connections whose request never becomes complete.
    HalfOpen(half_open::Args),
    /// Many requests, and what the gateway keeps of them.
    Memory(memory::Args),
    /// Requests of all kinds, some of them given up, and what the worker keeps of them.
    Leaks(leaks::Args),
    /// A conversation that grows with every turn.
    Turns(turns::Args),
    /// A long prompt that arrives while a stream goes on.
    Newcomer(newcomer::Args),
    /// Answers that have to be JSON of some schema.
    Schemas(schemas::Args),
    /// Streams while workers are killed and frozen. Fails if anything was lost.
    Chaos(chaos::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: a second one would take a core from what is measured.
    let run = || -> anyhow::Result<bool> {
        process::raise_descriptor_limit();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("can't start the runtime")?.block_on(perform(&cli))
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kr-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the experiment; false if what it watches for went wrong.
async fn perform(Cli { target, experiment }: &Cli) -> anyhow::Result<bool> {
    let client = Client::new(target);
    match experiment {
        Experiment::OpenLoop(args) => print(&open_loop::run(&client, target, args).await?)?,
        Experiment::Streams(args) => print(&streams::run(&client, target, args).await?)?,
        Experiment::SlowReaders(args) => print(&slow_readers::run(&client, target, args).await?)?,
        Experiment::Cancels(args) => print(&cancels::run(&client, target, args).await?)?,
        Experiment::HalfOpen(args) => print(&half_open::run(&client, target, args).await?)?,
        Experiment::Memory(args) => print(&memory::run(&client, target, args).await?)?,
        Experiment::Leaks(args) => print(&leaks::run(&client, target, args).await?)?,
        Experiment::Turns(args) => print(&turns::run(&client, target, args).await?)?,
        Experiment::Newcomer(args) => print(&newcomer::run(&client, target, args).await?)?,
        Experiment::Schemas(args) => print(&schemas::run(&client, target, args).await?)?,
        Experiment::Chaos(args) => {
            let report = chaos::run(&client, target, args).await?;
            print(&report)?;
            return Ok(report.is_clean());
        }
    }
    Ok(true)
}

fn print(report: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(report).context("the report can't be written")?);
    Ok(())
}
