//! Holds on blobs that no artifact protects.

use std::fs;

use tempfile::TempDir;

use crate::{
    names,
    stores::{import, silent, source},
    support::files_below,
    to_size,
};

#[test]
fn a_held_blob_outlives_its_artifacts_and_goes_when_nobody_holds_it() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    let [weights, tokenizer] = [0, 1].map(|index| artifact.manifest.files[index].clone());
    drop(artifact);
    let mut hold = store.hold_blobs().unwrap();
    let path = hold.add(weights.blob, weights.size).unwrap().unwrap();
    assert_eq!(hold.add(weights.blob, weights.size + 1).unwrap(), None, "it is another file");

    let report = store.prune(&to_size(0), &mut silent).unwrap();
    assert_eq!(names(&report.removed), ["tiny"]);
    assert_eq!(report.size_after, weights.size, "its going frees the rest only");
    assert!(path.exists());
    assert_eq!(store.stored_blob(tokenizer.blob, tokenizer.size), None);
    let other = store.import(&source(root.path(), "other"), None, &mut silent).unwrap();
    assert!(path.exists() && other.new_bytes < other.size, "recovery keeps it, and import reuses it");
    store.remove("other", false, &mut silent).unwrap();
    assert!(store.repair(false, &mut silent).unwrap().actions.is_empty() && path.exists());

    drop(hold);
    store.repair(false, &mut silent).unwrap();
    assert!(!path.exists());
    assert!(files_below(&root.path().join("store/holds")).is_empty());
}

#[test]
fn the_hold_of_a_process_that_is_gone_counts_no_more() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let weights = store.resolve("tiny").unwrap().manifest.files[0].clone();
    let mut hold = store.hold_blobs().unwrap();
    let path = hold.add(weights.blob, weights.size).unwrap().unwrap();
    // As a process leaves it that is killed: without its lock.
    let [file] = <[_; 1]>::try_from(files_below(&root.path().join("store/holds"))).unwrap();
    let left = root.path().join("store/holds").join(&file);
    let text = fs::read(&left).unwrap();
    drop(hold);
    fs::write(&left, text).unwrap();
    store.prune(&to_size(0), &mut silent).unwrap();
    assert!(!path.exists() && !left.exists());
}
