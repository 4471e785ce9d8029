//! `cargo xtask bench accuracy`: the CPU kernels beside MLX's own operations, on a real model.

use anyhow::Result;

use super::{machine, subject::Subject};
use crate::{process, workspace::Workspace};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    subject: Subject,
}

/// Sets up, builds, provides the model, compares. The benchmark prints its table, and fails if a bound is broken.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let command = args.subject.command(workspace, "accuracy")?;
    println!("{}\n", machine::describe());
    process::run(command)
}
