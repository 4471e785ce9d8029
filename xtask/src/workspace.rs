//! Where things are.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// The folders of this checkout.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// Finds the checkout that this program was built from, or, if it was moved since, the one around the current folder.
    pub(crate) fn locate() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).parent().context("xtask has to stand in a workspace")?.to_path_buf();
        if !root.join("Cargo.toml").is_file() {
            bail!("there is no workspace at {}; start this with `cargo xtask`", root.display());
        }
        Ok(Self { root })
    }

    /// The git-ignored folder of everything that set-up makes.
    pub(crate) fn mlx(&self) -> PathBuf {
        self.root.join(".mlx")
    }

    /// The folder cargo builds in.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        let metadata = self.metadata()?;
        let folder =
            metadata["target_directory"].as_str().context("`cargo metadata` names no target folder")?;
        Ok(folder.into())
    }

    /// `cargo`, the one that started this program if one did, in the root folder.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// What `cargo metadata` says, with all dependencies resolved for this machine; downloads what is missing.
    pub(crate) fn metadata(&self) -> Result<Value> {
        let platform = host_triple();
        let text = process::output(self.cargo(&[
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            &platform,
        ]))?;
        serde_json::from_str(&text).context("`cargo metadata` printed something other than JSON")
    }
}

/// The target triple of this machine, of those that kr-serve supports.
pub(crate) fn host_triple() -> String {
    let system = if cfg!(target_os = "macos") { "apple-darwin" } else { "unknown-linux-gnu" };
    format!("{}-{system}", env::consts::ARCH)
}
