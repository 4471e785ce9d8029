//! What the rings are compared with: JSON-RPC over a child's standard input and output, a line a message.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::process;

/// The scripts, in a folder of their own.
pub(super) struct JsonRpc {
    folder: TempDir,
    parent: Parent,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    Node,
    /// Where there is no Node.js.
    Python,
}

/// The child answers each line with the length of a text.
const CHILD: (&str, &str) = ("child.py", include_str!("json_rpc/child.py"));
const NODE: (&str, &str) = ("parent.mjs", include_str!("json_rpc/parent.mjs"));
const PYTHON: (&str, &str) = ("parent.py", include_str!("json_rpc/parent.py"));

impl JsonRpc {
    /// With Node.js as the parent if this machine has it. Python is needed in any case.
    pub(super) fn new() -> Result<Self> {
        let folder = TempDir::new().context("cannot make a folder")?;
        for (name, text) in [CHILD, NODE, PYTHON] {
            fs::write(folder.path().join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        let parent = if process::succeeds(version("node")) { Parent::Node } else { Parent::Python };
        Ok(Self { folder, parent })
    }

    /// What it is, with versions.
    pub(super) fn describe(&self) -> Result<String> {
        let python = process::output(version("python3"))
            .context("the comparison needs python3 (package python3; nothing else is downloaded)")?;
        Ok(match self.parent {
            Parent::Node => {
                let node = process::output(version("node"))?;
                format!("Node.js {} with a child in {}", node.trim(), python.trim())
            }
            Parent::Python => format!(
                "{} with a child in the same (for a parent in Node.js, install the package nodejs)",
                python.trim()
            ),
        })
    }

    /// Microseconds of an operation.
    pub(super) fn measure(&self, operations: u32, in_flight: u32) -> Result<f64> {
        let (program, script) = match self.parent {
            Parent::Node => ("node", NODE.0),
            Parent::Python => ("python3", PYTHON.0),
        };
        let mut command = Command::new(program);
        command.arg(self.path(script)).arg("python3").arg(self.path(CHILD.0));
        command.args([operations.to_string(), in_flight.to_string()]);
        let text = process::output(command)?;
        let result: Value = serde_json::from_str(&text).context("the comparison printed no JSON")?;
        let seconds = result["seconds"].as_f64().context("the comparison printed no time")?;
        Ok(seconds * 1e6 / f64::from(operations))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn version(program: &str) -> Command {
    let mut command = Command::new(program);
    command.arg("--version");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parents_get_every_answer() -> Result<()> {
        let found = JsonRpc::new()?;
        for parent in [found.parent, Parent::Python] {
            let rpc = JsonRpc { parent, ..JsonRpc::new()? };
            for in_flight in [1, 7] {
                assert!(rpc.measure(50, in_flight)? > 0.0, "{parent:?}");
            }
            assert!(rpc.describe()?.contains("Python"));
        }
        Ok(())
    }
}
