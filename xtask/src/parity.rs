//! `cargo xtask parity`: small random models of each architecture beside mlx-lm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    process, progress,
    setup::{
        self,
        downloads::{Downloads, key},
    },
    workspace::Workspace,
};

/// What makes the models and computes them with mlx-lm.
const SCRIPT: &str = "crates/worker/tests/reference/small.py";

/// What the script imports. Of MLX it is the version that we run on.
const PACKAGES: [&str; 2] = ["mlx-lm==0.32.2", "mlx[cpu]==0.32.2"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architectures, as `model_type` names them [default: all].
    architectures: Vec<String>,
    /// Python that has mlx-lm [default: python3 with packages of its own, downloaded once].
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Which random models: three a number. 0 are those that are recorded.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
}

/// Sets up, makes the models, compares, prints a table.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::run(workspace)?;
    let mut python = python(workspace, args.python.as_deref())?;
    let folder = workspace.target()?.join(format!("parity-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let step = progress::spinner("computing with mlx-lm");
    python.arg("-B").arg(workspace.root.join(SCRIPT));
    python.arg("--seed").arg(args.seed.to_string()).arg("--to").arg(&folder).args(&args.architectures);
    let compared = process::output(python).and_then(|_| {
        step.finish();
        let mut cargo = workspace.cargo(&["test", "--quiet", "-p", "worker", "--test", "model_small"]);
        cargo.args(["parity::table", "--", "--nocapture"]).env("KR_PARITY", &folder);
        process::run(cargo)
    });
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    compared
}

/// The Python that was named, or one with packages under `.mlx/`.
fn python(workspace: &Workspace, named: Option<&Path>) -> Result<Command> {
    if let Some(path) = named {
        return Ok(Command::new(path));
    }
    let downloads = Downloads::open(&workspace.mlx())?;
    let folder = downloads.ensure("mlx-lm", &key(&PACKAGES), |folder| {
        let step = progress::spinner(format!("downloading {}", PACKAGES.join(" and ")));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--target"]);
        pip.arg(folder).args(PACKAGES);
        process::output(pip).context(
            "cannot install mlx-lm; it needs Python 3.10 with pip, and the Python package index once",
        )?;
        step.finish();
        Ok(())
    })?;
    downloads.remove_unused()?;
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", folder);
    Ok(python)
}
