//! Rules about which module of a crate may name which, and that modules form no circles.
//!
//! What is compiled for tests only (`#[cfg(test)]`, `#[test]`) is left out: a test may put modules of all layers
//! together, and its imports bind nothing else.

mod circles;
mod graph;
mod layers;
mod names;
mod references;
mod rules;
mod syntax;
#[cfg(test)]
mod tests;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use self::{graph::Graph, rules::RULES, tree::Tree};
use super::Finding;

/// Checks the libraries and programs of all members.
pub(super) fn check_all(metadata: &Value, root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (name, entry) in targets(metadata).context("`cargo metadata` has an unknown form")? {
        let tree = Tree::read(name, &entry, root)?;
        findings.extend(check(&tree));
    }
    Ok(findings)
}

fn check(tree: &Tree) -> Vec<Finding> {
    let graph = Graph::of(tree);
    let mut findings = layers::check(tree, &graph, RULES);
    findings.extend(circles::check(tree, &graph));
    findings
}

/// Root files of what members build, with the member's name. Examples, benchmarks and tests have few modules, and
/// are built on the library's public interface.
fn targets(metadata: &Value) -> Option<Vec<(&str, PathBuf)>> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array()?.iter().filter(|it| it["source"].is_null()) {
        for target in package["targets"].as_array()? {
            if matches!(target["kind"][0].as_str()?, "lib" | "bin") {
                found.push((package["name"].as_str()?, PathBuf::from(target["src_path"].as_str()?)));
            }
        }
    }
    Some(found)
}
