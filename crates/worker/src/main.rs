//! `kr-worker`: see [`worker`].

use std::{io, process::ExitCode};

use clap::Parser;
use worker::{
    cli::{Cli, Task},
    list_models, startup,
};

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    let _telemetry = log();
    let done = match Cli::parse().into() {
        Task::Serve(serve) => startup::run(&serve, started),
        Task::ListModels { store } => list_models::print(store.as_deref(), io::stdout().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Begins to log, and to export traces if the gateway said where to. It has looked at the address: should the address not
/// be usable here, the worker serves without.
fn log() -> telemetry::Guard {
    let settings = telemetry::Settings::of_worker();
    telemetry::init("kr-worker", &settings).unwrap_or_else(|error| {
        let without = telemetry::Settings { traces: None, ..settings };
        // It can't fail without traces.
        let guard = telemetry::init("kr-worker", &without).unwrap_or_default();
        tracing::error!("{:#}", anyhow::Error::new(error));
        guard
    })
}
