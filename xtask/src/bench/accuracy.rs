//! `cargo xtask bench accuracy`: the CPU kernels beside MLX's own operations, on a real model.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use super::machine;
use crate::{
    binaries,
    model::{self, Store},
    process, setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Model, by its name in the store [default: smollm2-135m-instruct, in a store of its own].
    #[arg(long, value_name = "NAME", requires = "store")]
    model: Option<String>,
    /// Folder of the artifact store that has it.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Sets up, builds, provides the model, compares. The benchmark prints its table, and fails if a bound is broken.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::run(workspace)?;
    let tool = binaries::optimized(workspace, "cache-tool")?;
    let benchmark = binaries::benchmark(workspace, "worker", "accuracy")?;
    let store = args.store.clone().unwrap_or_else(|| workspace.mlx().join("test-store"));
    let model = args.model.as_deref().unwrap_or(model::DEFAULT);
    Store::new(&tool, Some(&store)).provide(workspace, model)?;
    println!("{}\n", machine::describe());
    let mut command = Command::new(benchmark);
    command.arg(store).arg(model);
    process::run(command)
}
