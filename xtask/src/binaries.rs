//! The three programs of kr-serve, built, and where cargo put them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, workspace::Workspace};

/// Paths of the executables; the worker's is beside the gateway's, which starts it.
pub(crate) struct Binaries {
    pub(crate) gateway: PathBuf,
    pub(crate) cache_tool: PathBuf,
}

impl Binaries {
    /// Builds with `cargo <arguments>`, which has to select all three.
    pub(crate) fn build(workspace: &Workspace, arguments: &[&str]) -> Result<Self> {
        let built = build_all(workspace, arguments)?;
        let find = |name| built.find(Program::Binary, name);
        find("kr-worker")?;
        Ok(Self { gateway: find("kr-gateway")?, cache_tool: find("cache-tool")? })
    }

    /// Those that were built before, in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        for name in ["kr-gateway", "kr-worker", "cache-tool"] {
            if !folder.join(name).is_file() {
                bail!("there is no {name} in {}; `cargo xtask build` builds it", folder.display());
            }
        }
        Ok(Self { gateway: folder.join("kr-gateway"), cache_tool: folder.join("cache-tool") })
    }

    /// The folder they are in.
    pub(crate) fn folder(&self) -> &Path {
        self.gateway.parent().unwrap_or(Path::new("."))
    }
}

/// What cargo built.
pub(crate) struct Built {
    messages: String,
}

/// Kinds of programs that cargo builds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    Binary,
    Benchmark,
    Example,
}

/// Builds with `cargo <arguments>`.
pub(crate) fn build_all(workspace: &Workspace, arguments: &[&str]) -> Result<Built> {
    // Cargo says where its executables are; a guess would be wrong for some `target-dir` or `build.target`.
    let mut cargo = workspace.cargo(arguments);
    cargo.arg("--message-format=json-render-diagnostics");
    Ok(Built { messages: process::output_with_progress(cargo)? })
}

impl Built {
    /// The executable of the target `name`.
    pub(crate) fn find(&self, program: Program, name: &str) -> Result<PathBuf> {
        executable(&self.messages, program, name)
            .with_context(|| format!("cargo built no {} named {name}", program.kind()))
    }
}

impl Program {
    /// In cargo's messages.
    fn kind(self) -> &'static str {
        match self {
            Self::Binary => "bin",
            Self::Benchmark => "bench",
            Self::Example => "example",
        }
    }
}

/// Builds the binary of the package `name`, of the same name, optimized, and returns its executable.
pub(crate) fn optimized(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    build_all(workspace, &["build", "--release", "--package", name])?.find(Program::Binary, name)
}

/// Builds the benchmark `name` of `package`, optimized, and returns its executable.
pub(crate) fn benchmark(workspace: &Workspace, package: &str, name: &str) -> Result<PathBuf> {
    let arguments = ["bench", "--package", package, "--bench", name, "--no-run"];
    build_all(workspace, &arguments)?.find(Program::Benchmark, name)
}

/// The executable of the target `name`, not of its unit tests, in cargo's messages.
fn executable(messages: &str, program: Program, name: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let wanted = message["reason"] == "compiler-artifact"
            && message["target"]["name"] == name
            && message["target"]["kind"][0] == program.kind()
            // Of a binary; a benchmark is always built as a test.
            && (matches!(program, Program::Benchmark) || message["profile"]["test"] == false);
        wanted.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_tests_of_a_binary_are_not_the_binary() {
        let messages = [
            r#"{"reason":"compiler-artifact","target":{"name":"a","kind":["bin"]},"profile":{"test":true},"executable":"/t/deps/a-1"}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"a","kind":["bin"]},"profile":{"test":false},"executable":"/t/a"}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ]
        .join("\n");
        assert_eq!(executable(&messages, Program::Binary, "a"), Some(PathBuf::from("/t/a")));
        assert_eq!(executable(&messages, Program::Binary, "b"), None);
    }
}
