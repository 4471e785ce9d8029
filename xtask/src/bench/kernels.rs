//! `cargo xtask bench kernels`.

use std::process::Command;

use anyhow::Result;

use super::machine;
use crate::{binaries, process, setup, workspace::Workspace};

/// Which tables, and how carefully.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Tables to print; all, if none is named.
    #[arg(value_parser = ["products", "experts", "attention", "states", "layers"])]
    tables: Vec<String>,
    /// One round of each measurement: to see whether all works, not for figures.
    #[arg(long)]
    quick: bool,
}

/// The figures are made and printed by the benchmark itself, which has to be inside mlx-ext.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::run(workspace)?;
    let benchmark = binaries::benchmark(workspace, "mlx-ext", "kernels")?;
    println!("{}\n", machine::describe());
    let mut command = Command::new(benchmark);
    command.args(&args.tables).args(args.quick.then_some("--quick"));
    process::run(command)
}
