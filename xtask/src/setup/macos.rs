//! Set-up on macOS: `mlx-sys` builds MLX itself, so only its tools are looked for.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{process, workspace::Workspace};

/// Checks the tools that `mlx-sys` builds MLX with.
pub(crate) fn run(_workspace: &Workspace) -> Result<()> {
    check()?;
    eprintln!("set-up: nothing to do on macOS, the first build compiles MLX with Metal (some minutes)");
    Ok(())
}

/// Finds what `mlx-sys` builds MLX with, or says what is missing and how to get it.
fn check() -> Result<()> {
    let mut missing = Vec::new();
    if !works("xcrun", &["--find", "metal"]) {
        missing.push(
            "the Metal compiler of Xcode: install Xcode, then `xcodebuild -downloadComponent MetalToolchain`",
        );
    }
    if !works("cmake", &["--version"]) {
        missing.push("cmake: `brew install cmake`");
    }
    if !missing.is_empty() {
        bail!("building MLX needs, and this machine lacks:\n  {}", missing.join("\n  "));
    }
    Ok(())
}

fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments);
    process::succeeds(command)
}
