//! Rules about `Cargo.toml` files: versions stand in the root, and nothing stands there unused.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Finding, relative};

/// A dependency as a manifest writes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) name: String,
    /// From 1.
    pub(super) line: usize,
    /// Whether it takes the root's version.
    inherited: bool,
}

/// Checks the root's and every member's manifest.
pub(super) fn check_all(metadata: &Value, root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for manifest in members(metadata).context("`cargo metadata` has an unknown form")? {
        let text = read(manifest)?;
        let file = relative(manifest, root)?;
        for dependency in declared(&text) {
            if !dependency.inherited {
                let message = format!(
                    "{0} has its version here; put it under [workspace.dependencies] of the root and write `{0}.workspace = true`",
                    dependency.name
                );
                findings.push(Finding::new(file, dependency.line, message));
            }
            used.insert(dependency.name);
        }
    }
    let text = read(&root.join("Cargo.toml"))?;
    for dependency in declared(&text).into_iter().filter(|dependency| !used.contains(&dependency.name)) {
        let message = format!("no member uses {}; remove it", dependency.name);
        findings.push(Finding::new(Path::new("Cargo.toml"), dependency.line, message));
    }
    Ok(findings)
}

/// The manifests of all members. Only members have no source, since the root allows no other path dependencies.
fn members(metadata: &Value) -> Option<Vec<&Path>> {
    let packages = metadata["packages"].as_array()?.iter();
    packages
        .filter(|package| package["source"].is_null())
        .map(|package| package["manifest_path"].as_str().map(Path::new))
        .collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Every dependency of a manifest, of all kinds and targets. Reads lines, not TOML: entries span one line each.
pub(super) fn declared(manifest: &str) -> Vec<Declared> {
    let mut found: Vec<Declared> = Vec::new();
    // What the lines of the current table are: dependencies, or the keys of one dependency.
    enum Table {
        Other,
        List,
        One,
    }
    let mut table = Table::Other;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            let parts: Vec<&str> = header.rsplitn(3, '.').collect();
            table = match parts[..] {
                [last, ..] if last.ends_with("dependencies") => Table::List,
                [name, above, ..] if above.ends_with("dependencies") => {
                    found.push(Declared { name: unquoted(name), line: index + 1, inherited: false });
                    Table::One
                }
                _ => Table::Other,
            };
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        let (key, value) = (key.trim(), value.trim());
        let inherits = key.ends_with("workspace") && value.starts_with("true");
        match (&table, found.last_mut()) {
            (Table::One, Some(one)) => one.inherited |= inherits,
            (Table::List, _) => {
                let inherited = inherits || value.replace(' ', "").contains("workspace=true");
                let name = unquoted(key.split('.').next().unwrap_or(key));
                found.push(Declared { name, line: index + 1, inherited });
            }
            _ => {}
        }
    }
    found
}

fn unquoted(name: &str) -> String {
    name.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_inherit_are_known() {
        let manifest = "[package]\nversion.workspace = true\n[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"x\"] }\n\
                        [target.'cfg(unix)'.dev-dependencies]\nc.workspace = true # why\n[build-dependencies.d]\nworkspace = true\n";
        let found = declared(manifest);
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(found.iter().all(|it| it.inherited));
        assert_eq!(found[2].line, 7);
    }

    #[test]
    fn versions_of_their_own_are_seen() {
        let manifest = "[dependencies]\na = \"1\"\n# b = \"1\"\nc = { version = \"1\" }\n[dependencies.d]\nversion = \"1\"\n[lints]\nworkspace = true\n";
        let found = declared(manifest);
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
        assert!(found.iter().all(|it| !it.inherited));
    }
}
