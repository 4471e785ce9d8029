//! A failed import leaves the store as it was.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use test_support::{TestEnv, files::files_below};

use crate::models::{Model, cache_tool, names, total};

/// A store that is full of one model, `old`: whatever comes in has to take its place.
fn full_store() -> (TestEnv, u64) {
    let tool = cache_tool();
    Model::new(1).write(tool.path("old").as_ref());
    tool.ok(&["import", "old"]);
    let limit = total(&tool) + 100_000;
    (tool, limit)
}

/// Everything in the store but locks.
fn content(tool: &TestEnv) -> Vec<String> {
    let mut files = files_below(tool.path("store").as_ref());
    files.retain(|file| !file.ends_with(".lock"));
    files
}

/// Exit code and standard error of an import that fails and must have changed nothing.
fn fails(tool: &TestEnv, limit: u64, args: &[&str]) -> (i32, String) {
    let before = content(tool);
    let (code, said) = tool.fails(&[&["--max-size", &limit.to_string(), "import"], args].concat());
    assert_eq!(content(tool), before, "{args:?}: {said}");
    assert_eq!(names(tool), ["old"], "{args:?}: {said}");
    tool.ok(&["verify"]);
    (code, said)
}

#[test]
fn a_value_that_cannot_be_quantized_is_found_at_the_end_and_costs_nothing() {
    let (tool, limit) = full_store();
    let mut bad = Model::new(2);
    *bad.matrices.last_mut().unwrap().values.last_mut().unwrap() = f32::NAN;
    bad.write(tool.path("bad").as_ref());
    let (code, said) = fails(&tool, limit, &["bad", "--quantize", "4", "--group-size", "32"]);
    assert!(code == 4 && said.contains("not a finite number"), "{code}: {said}");
}

#[test]
fn what_the_limit_can_never_hold_is_said_before_anything_goes() {
    let (tool, limit) = full_store();
    let mut large = Model::new(2);
    let matrix = &mut large.matrices[0];
    matrix.values.extend_from_within(..);
    matrix.rows *= 2;
    large.write(tool.path("large").as_ref());
    let (code, said) = fails(&tool, limit, &["large"]);
    assert!(code == 6 && said.contains("--max-size"), "{code}: {said}");
}

#[test]
fn a_damaged_source_costs_nothing_and_a_good_one_takes_the_place() {
    let (tool, limit) = full_store();
    let new = PathBuf::from(tool.path("new"));
    Model::new(2).write(&new);
    let weights = new.join("model-2.safetensors");
    let good = fs::read(&weights).unwrap();
    fs::write(&weights, &good[..good.len() - 4]).unwrap();
    let (code, said) = fails(&tool, limit, &["new"]);
    assert!(code == 4 && said.contains("model-2.safetensors"), "{code}: {said}");

    fs::write(&weights, good).unwrap();
    let imported = tool.json(&["--max-size", &limit.to_string(), "import", "new", "--json"]);
    assert_eq!(imported["evicted"][0]["names"][0], "old");
    assert_eq!(names(&tool), ["new"]);
    tool.ok(&["verify"]);
}
