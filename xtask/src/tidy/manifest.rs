//! Rules about `Cargo.toml` files: versions stand in the root, and nothing stands there unused.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;
use toml_edit::{Document, Item, Key, TableLike};

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
        for dependency in read_declared(manifest, &text)? {
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
    let path = root.join("Cargo.toml");
    let declared = read_declared(&path, &read(&path)?)?;
    for dependency in declared.into_iter().filter(|dependency| !used.contains(&dependency.name)) {
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

fn read_declared(path: &Path, text: &str) -> Result<Vec<Declared>> {
    declared(text).with_context(|| format!("cannot parse {}", path.display()))
}

/// Every dependency of a manifest, of all kinds and targets.
pub(super) fn declared(manifest: &str) -> Result<Vec<Declared>> {
    let document = Document::parse(manifest)?;
    let mut found = Vec::new();
    collect(manifest, document.as_table(), &mut found);
    found.sort_by_key(|it| it.line);
    Ok(found)
}

/// Takes the entries of `table`, and of the tables below, that are called dependencies.
fn collect(manifest: &str, table: &dyn TableLike, found: &mut Vec<Declared>) {
    for (name, item) in table.iter() {
        let Some(below) = item.as_table_like() else { continue };
        if !name.ends_with("dependencies") {
            collect(manifest, below, found);
            continue;
        }
        for (name, item) in below.iter() {
            let start = below.key(name).and_then(Key::span).map_or(0, |span| span.start);
            let line = manifest[..start].matches('\n').count() + 1;
            let inherited = item.get("workspace").and_then(Item::as_bool) == Some(true);
            found.push(Declared { name: name.to_owned(), line, inherited });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_inherit_are_known() {
        let manifest = "[package]\nversion.workspace = true\n[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"x\"] }\n\
                        [target.'cfg(unix)'.dev-dependencies]\nc.workspace = true # why\n[build-dependencies.d]\nworkspace = true\n";
        let found = declared(manifest).unwrap();
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(found.iter().all(|it| it.inherited));
        assert_eq!(found[2].line, 7);
    }

    #[test]
    fn versions_of_their_own_are_seen() {
        let manifest = "[dependencies]\na = \"1\"\n# b = \"1\"\nc = { version = \"1\" }\n[dependencies.d]\nversion = \"1\"\n[lints]\nworkspace = true\n";
        let found = declared(manifest).unwrap();
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
        assert!(found.iter().all(|it| !it.inherited));
    }
}
