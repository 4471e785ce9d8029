//! `cargo xtask tidy`: the rules of this workspace that neither the compiler nor clippy knows.
//!
//! If a rule is wrong, change it here in the same commit, and say why.

mod dependencies;
mod errors;
mod manifest;
mod modules;
mod source;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Relative to the root.
    file: PathBuf,
    /// From 1.
    line: usize,
    /// What is wrong, and what to do.
    message: String,
}

impl Finding {
    fn new(file: &Path, line: usize, message: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.message)
    }
}

/// Checks every rule and prints what is broken.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut findings = source::check_all(&workspace.root)?;
    let metadata = workspace.metadata()?;
    findings.extend(manifest::check_all(&metadata, &workspace.root)?);
    findings.extend(dependencies::check_all(&metadata, &workspace.root)?);
    findings.extend(modules::check_all(&metadata, &workspace.root)?);
    findings.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy: {} broken rule(s)", findings.len())
}

/// `path` as seen from `root`.
fn relative<'a>(path: &'a Path, root: &Path) -> Result<&'a Path> {
    path.strip_prefix(root).with_context(|| format!("{} is not in {}", path.display(), root.display()))
}
