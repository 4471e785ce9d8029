//! `cargo xtask`: everything a developer does with this workspace, one command a file.
//!
//! It links none of the workspace's crates; it starts them.

mod bench;
mod binaries;
mod build;
mod chaos;
mod docs;
#[cfg(target_os = "linux")]
mod kernel_tests;
mod lint;
mod load;
mod model;
mod parity;
mod process;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS compiles nothing itself"))]
mod progress;
mod references;
mod run;
#[cfg(target_os = "linux")]
mod sanitize;
mod setup;
mod test;
mod tidy;
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
    /// Build kr-gateway, kr-worker and cache-tool, optimized.
    Build,
    /// Build, get a small model the first time, and serve it.
    Run(run::Args),
    /// Run every test, with real binaries and a real model.
    Test(test::Args),
    #[cfg(target_os = "linux")]
    /// Run the kernels' C++ tests under sanitizers, valgrind and an emulator, as far as the machine has these.
    Sanitize(sanitize::Args),
    /// Measure, and print a table.
    Bench(bench::Args),
    /// Compare small random models of each architecture with mlx-lm, and print a table.
    Parity(parity::Args),
    /// Kill and freeze workers under load; fail if a stream is lost.
    Chaos(chaos::Args),
    /// Write the documents that are printed by programs: settings, command lines, metrics.
    Docs(docs::Args),
    /// Check format, rules, clippy, documentation and dependencies.
    Lint,
    /// Check this workspace's own rules (a part of lint).
    Tidy,
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    GenerateBindings(setup::bindings::GenerateArgs),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match command {
        Command::Setup => setup::run(&workspace),
        Command::Build => {
            let binaries = build::run(&workspace)?;
            eprintln!("built kr-gateway, kr-worker and cache-tool in {}", binaries.folder().display());
            Ok(())
        }
        Command::Run(args) => run::run(&workspace, &args),
        Command::Test(args) => test::run(&workspace, &args),
        #[cfg(target_os = "linux")]
        Command::Sanitize(args) => sanitize::run(&workspace, &args),
        Command::Bench(args) => bench::run(&workspace, &args),
        Command::Parity(args) => parity::run(&workspace, &args),
        Command::Chaos(args) => chaos::run(&workspace, &args),
        Command::Docs(args) => docs::run(&workspace, &args),
        Command::Lint => lint::run(&workspace),
        Command::Tidy => tidy::run(&workspace),
        #[cfg(target_os = "linux")]
        Command::GenerateBindings(args) => setup::bindings::generate(&args),
    }
}
