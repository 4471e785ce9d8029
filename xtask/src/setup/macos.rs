//! Set-up on macOS: `mlx-sys` builds MLX itself, so only its tools are looked for.

use std::process::Command;

use anyhow::{Result, bail};

use super::version::at_least;
use crate::{process, workspace::Workspace};

/// The oldest CMake that MLX's build accepts.
const CMAKE: [u32; 2] = [3, 25];

/// Checks the tools that `mlx-sys` builds MLX with, and those that fetch the default model.
pub(crate) fn run(_workspace: &Workspace) -> Result<()> {
    check()?;
    eprintln!("set-up: nothing to do on macOS, the first build compiles MLX with Metal (some minutes)");
    Ok(())
}

/// Finds the tools, or says in one message what is missing and how to get it.
fn check() -> Result<()> {
    let mut missing = Vec::new();
    // Since Xcode 26 `xcrun --find metal` finds a stub even if the toolchain was not downloaded; only running it tells.
    if !works("xcrun", &["-sdk", "macosx", "metal", "--version"]) {
        missing.push(
            "the Metal compiler of Xcode: install Xcode, then `xcodebuild -downloadComponent MetalToolchain`",
        );
    }
    if !output("cmake", &["--version"]).is_some_and(|version| at_least(&version, CMAKE)) {
        missing.push("CMake 3.25 or newer: `brew install cmake`");
    }
    if !works("git", &["--version"]) {
        missing.push("git: `xcode-select --install`");
    }
    if !works("python3", &["-m", "pip", "--version"]) {
        missing.push("python3 with pip, which fetches the default model: `brew install python`");
    }
    if !missing.is_empty() {
        bail!("set-up needs, and this machine lacks:\n  {}\nNothing was changed.", missing.join("\n  "));
    }
    Ok(())
}

fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments);
    process::succeeds(command)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    process::output(command).ok()
}
