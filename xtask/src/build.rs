//! `cargo xtask build`: the three programs, optimized.

use anyhow::Result;

use crate::{binaries::Binaries, setup, workspace::Workspace};

/// Sets up and builds with the release profile.
pub(crate) fn run(workspace: &Workspace) -> Result<Binaries> {
    setup::run(workspace)?;
    Binaries::build(workspace, &["build", "--release", "-p", "gateway", "-p", "worker", "-p", "cache-tool"])
}
