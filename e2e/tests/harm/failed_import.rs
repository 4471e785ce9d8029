//! A failed import leaves the store as it was.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::models::{Model, cache_tool, names, total};

/// A store that is full of one model, `old`: whatever comes in has to take its place.
fn full_store() -> (TempDir, u64) {
    let root = TempDir::new().unwrap();
    Model::new(1).write(&root.path().join("old"));
    assert!(cache_tool(root.path(), &["import", "old"]).status.success());
    let limit = total(root.path()) + 100_000;
    (root, limit)
}

/// Everything in the store but locks and the times of last use.
fn content(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("store")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if !path.to_str().unwrap().ends_with(".lock") {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Exit code and standard error of an import that fails and must have changed nothing.
fn fails(root: &Path, limit: u64, args: &[&str]) -> (i32, String) {
    let before = content(root);
    let limit = limit.to_string();
    let output = cache_tool(root, &[&["--max-size", &limit, "import"], args].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{args:?}: {said}");
    assert_eq!(content(root), before, "{args:?}: {said}");
    assert_eq!(names(root), ["old"], "{args:?}: {said}");
    assert!(cache_tool(root, &["verify"]).status.success());
    (output.status.code().unwrap(), said)
}

#[test]
fn a_value_that_cannot_be_quantized_is_found_at_the_end_and_costs_nothing() {
    let (root, limit) = full_store();
    let mut bad = Model::new(2);
    *bad.matrices.last_mut().unwrap().values.last_mut().unwrap() = f32::NAN;
    bad.write(&root.path().join("bad"));
    let (code, said) = fails(root.path(), limit, &["bad", "--quantize", "4", "--group-size", "32"]);
    assert!(code == 4 && said.contains("not a finite number"), "{code}: {said}");
}

#[test]
fn what_the_limit_can_never_hold_is_said_before_anything_goes() {
    let (root, limit) = full_store();
    let mut large = Model::new(2);
    let matrix = &mut large.matrices[0];
    matrix.values.extend_from_within(..);
    matrix.rows *= 2;
    large.write(&root.path().join("large"));
    let (code, said) = fails(root.path(), limit, &["large"]);
    assert!(code == 6 && said.contains("--max-size"), "{code}: {said}");
}

#[test]
fn a_damaged_source_costs_nothing_and_a_good_one_takes_the_place() {
    let (root, limit) = full_store();
    let new = root.path().join("new");
    Model::new(2).write(&new);
    let weights = new.join("model-2.safetensors");
    let good = fs::read(&weights).unwrap();
    fs::write(&weights, &good[..good.len() - 4]).unwrap();
    let (code, said) = fails(root.path(), limit, &["new"]);
    assert!(code == 4 && said.contains("model-2.safetensors"), "{code}: {said}");

    fs::write(&weights, good).unwrap();
    let output = cache_tool(root.path(), &["--max-size", &limit.to_string(), "import", "new", "--json"]);
    let imported: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(imported["evicted"][0]["names"][0], "old");
    assert_eq!(names(root.path()), ["new"]);
    assert!(cache_tool(root.path(), &["verify"]).status.success());
}
