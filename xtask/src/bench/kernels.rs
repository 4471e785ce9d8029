//! `cargo xtask bench kernels`.

use std::process::Command;

use anyhow::Result;

use super::machine;
use crate::{binaries, process, setup, workspace::Workspace};

/// The figures are made and printed by the benchmark itself, which has to be inside mlx-ext.
pub(super) fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    let benchmark = binaries::benchmark(workspace, "mlx-ext", "kernels")?;
    println!("{}\n", machine::describe());
    process::run(Command::new(benchmark))
}
