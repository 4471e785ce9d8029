//! `cargo xtask`: everything a developer does with this workspace, one command a file.
//!
//! It links none of the workspace's crates; it starts them.

mod process;
mod progress;
mod setup;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Set-up, build, run, test and lint of kr-serve-mlx.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get MLX ready for this machine (downloads and compiles once, then does nothing).
    Setup,
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    GenerateBindings(setup::bindings::GenerateArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match command {
        Command::Setup => setup::run(&workspace),
        #[cfg(target_os = "linux")]
        Command::GenerateBindings(args) => setup::bindings::generate(&args),
    }
}
