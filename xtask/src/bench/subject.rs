//! The model that a benchmark of the worker measures.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    binaries,
    model::{self, Store},
    setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(super) struct Subject {
    /// Model, by its name in the store [default: smollm2-135m-instruct, in a store of its own].
    #[arg(long, value_name = "NAME", requires = "store")]
    pub(super) model: Option<String>,
    /// Folder of the artifact store that has it.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl Subject {
    /// Its name in the store.
    pub(super) fn name(&self) -> &str {
        self.model.as_deref().unwrap_or(model::DEFAULT)
    }

    /// Sets up, builds the worker's benchmark `benchmark`, provides the model, and says how to measure the one with the
    /// other.
    pub(super) fn command(&self, workspace: &Workspace, benchmark: &str) -> Result<Command> {
        setup::run(workspace)?;
        let tool = binaries::optimized(workspace, "cache-tool")?;
        let benchmark = binaries::benchmark(workspace, "worker", benchmark)?;
        Store::new(&tool, Some(&self.store(workspace))).provide(workspace, self.name())?;
        Ok(self.measured_by(workspace, &benchmark))
    }

    /// The command that measures it with a benchmark's executable, once the store has it.
    pub(super) fn measured_by(&self, workspace: &Workspace, benchmark: &Path) -> Command {
        let mut command = Command::new(benchmark);
        command.arg(self.store(workspace)).arg(self.name());
        command
    }

    fn store(&self, workspace: &Workspace) -> PathBuf {
        self.store.clone().unwrap_or_else(|| workspace.mlx().join("test-store"))
    }
}
