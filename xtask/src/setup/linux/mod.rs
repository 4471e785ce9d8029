//! Set-up on Linux: makes the folders that the parent module's documentation lists.

pub(crate) mod bindings;
mod mlxc;
mod override_file;
pub(crate) mod prerequisites;

use anyhow::Result;

use super::{downloads::Downloads, wheel};
use crate::workspace::Workspace;

/// Makes what is missing. Safe to interrupt, to repeat and to run twice at once.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let tools = prerequisites::check()?;
    let downloads = Downloads::open(&workspace.mlx())?;
    let sources = mlxc::Sources::locate(workspace)?;

    let mlx = wheel::MLX.ensure(&downloads)?;
    let mlxc = mlxc::ensure(&downloads, &tools, &sources, &mlx)?;
    let bindings = bindings::ensure(&downloads, &tools, &sources)?;
    override_file::write(workspace, &override_file::Paths { mlx, mlxc, bindings })?;

    downloads.remove_unused()?;
    eprintln!("set-up: MLX is ready in {}", workspace.mlx().display());
    Ok(())
}
