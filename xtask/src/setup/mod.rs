//! `cargo xtask setup`: MLX for this machine.
//!
//! On macOS the `mlx-sys` crate builds MLX itself and set-up only looks for the tools that needs. On Linux that build
//! cannot work, so set-up makes what it would have made, out of ready parts, and tells cargo to use it:
//!
//! ```text
//! .mlx/mlx-cpu-*        MLX itself: libmlx.so and headers            (a Python wheel, unpacked)
//! .mlx/openblas-*       the matrix products MLX calls                (a Python wheel, unpacked)
//! .mlx/libclang-*       what bindgen parses C with                   (a Python wheel, unpacked)
//! .mlx/mlxc-*           libmlxc.so and headers: MLX's C interface    (compiled from the sources in mlx-sys)
//! .mlx/bindings-*       bindings.rs: that interface in Rust          (bindgen)
//! .cargo/mlx-linux.toml cargo's build script override, which names all of these
//! ```
//!
//! A folder's name carries the hash of everything it was made from, and it gets that name only when it is complete.
//! So what exists is right, a changed input makes a new folder, and an interruption leaves a `tmp-*` and nothing else.

#[cfg(target_os = "linux")]
pub(crate) mod bindings;
#[cfg(target_os = "linux")]
mod mlxc;
#[cfg(target_os = "linux")]
mod override_file;
#[cfg(target_os = "linux")]
pub(crate) mod piece;
mod prerequisites;
#[cfg(target_os = "linux")]
pub(crate) mod wheel;

use anyhow::Result;

use crate::workspace::Workspace;

/// Checks the tools that `mlx-sys` builds MLX with.
#[cfg(target_os = "macos")]
pub(crate) fn run(_workspace: &Workspace) -> Result<()> {
    prerequisites::check()?;
    eprintln!("set-up: nothing to do on macOS, the first build compiles MLX with Metal (some minutes)");
    Ok(())
}

/// Makes what is missing. Safe to interrupt, to repeat and to run twice at once.
#[cfg(target_os = "linux")]
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let tools = prerequisites::check()?;
    let pieces = piece::Pieces::open(&workspace.mlx())?;
    let sources = mlxc::Sources::locate(workspace)?;

    let mlx = wheel::MLX.ensure(&pieces)?;
    let openblas = wheel::OPENBLAS.ensure(&pieces)?;
    let mlxc = mlxc::ensure(&pieces, &tools, &sources, &mlx, &openblas)?;
    let bindings = bindings::ensure(&pieces, &tools, &sources)?;
    override_file::write(workspace, &override_file::Paths { mlx, openblas, mlxc, bindings })?;

    pieces.remove_unused()?;
    eprintln!("set-up: MLX is ready in {}", workspace.mlx().display());
    Ok(())
}
