//! `kr-worker`: see [`worker`].

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use tracing_subscriber::EnvFilter;
use worker::{
    cli::{Cli, Task},
    list_models, startup,
};

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(io::stderr).init();
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
