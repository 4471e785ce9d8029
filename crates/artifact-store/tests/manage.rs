//! Managing a store: pins, removal, usage, pruning, eviction, export.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "manage/hold.rs"]
mod hold;
#[path = "manage/room.rs"]
mod room;
#[path = "support/stores.rs"]
mod stores;
mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use artifact_store::{ArtifactSummary, FileRole, PruneOptions, Store, StoreError};
use stores::{age, import, import_distinct, is_whole, open, silent, source};
use support::{Gguf, files_below, huggingface_folder, text, tiny_llama};
use tempfile::TempDir;

fn names(listed: &[ArtifactSummary]) -> Vec<String> {
    listed.iter().flat_map(|artifact| artifact.names.clone()).collect()
}

fn to_size(max_size: u64) -> PruneOptions {
    PruneOptions { max_size: Some(max_size), ..PruneOptions::default() }
}

/// Three artifacts with weights of their own, not used for 3000, 2000 and 1000 seconds.
fn three(root: &Path) -> Store {
    for (name, byte, seconds) in [("old", 1, 3000), ("middle", 2, 2000), ("new", 3, 1000)] {
        let (_, imported) = import_distinct(root, name, byte);
        age(root, imported.digest, seconds);
    }
    open(root)
}

#[test]
fn pruning_removes_the_least_recently_used_and_nothing_shared_or_in_use() {
    let root = TempDir::new().unwrap();
    let store = three(root.path());
    import_distinct(root.path(), "twin-of-old", 1);
    let held = store.resolve("middle").unwrap();
    let before = files_below(&root.path().join("store"));
    let plan = store.prune(&PruneOptions { dry_run: true, ..to_size(0) }, &mut silent).unwrap();
    assert_eq!(files_below(&root.path().join("store")), before, "a dry run changes nothing");
    assert_eq!(names(&plan.removed), ["old", "new", "twin-of-old"]);
    assert_eq!(names(&plan.kept_in_use), ["middle"]);

    // One byte less than there is: `old` would free nothing, its twin having the same weights.
    let report = store.prune(&to_size(plan.size_before - 1), &mut silent).unwrap();
    assert_eq!(names(&report.removed), ["new"]);
    assert!(matches!(store.resolve("new"), Err(StoreError::UnknownArtifact { .. })));
    let everything = store.prune(&to_size(0), &mut silent).unwrap();
    assert_eq!(everything.size_after, held.manifest.size());
    assert_eq!(names(&store.list().unwrap()), ["middle"]);
    assert!(is_whole(&held));

    drop(held);
    assert_eq!(store.prune(&to_size(0), &mut silent).unwrap().size_after, 0);
    assert!(files_below(&root.path().join("store/blobs")).is_empty());
}

#[test]
fn a_blob_that_another_artifact_shares_survives() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "one");
    import(root.path(), "two");
    let kept = store.resolve("two").unwrap();
    store.prune(&to_size(0), &mut silent).unwrap();
    assert_eq!(store.list().unwrap().len(), 2, "removing `one` would free nothing");
    for (_, file) in kept.files(FileRole::Weights) {
        kept.open_blob(file).unwrap();
    }
}

#[test]
fn age_and_number_decide_as_well() {
    let root = TempDir::new().unwrap();
    let store = three(root.path());
    store.pin("old").unwrap();
    let aged = PruneOptions { older_than: Some(Duration::from_secs(1500)), ..PruneOptions::default() };
    let report = store.prune(&PruneOptions { dry_run: true, ..aged }, &mut silent).unwrap();
    assert_eq!(
        (names(&report.removed), names(&report.kept_pinned)),
        (vec!["middle".into()], vec!["old".into()])
    );
    let kept = store.prune(&PruneOptions { keep: Some(2), ..aged }, &mut silent).unwrap();
    assert!(kept.removed.is_empty(), "`middle` is among the two latest");
    let only = store.prune(&PruneOptions { keep: Some(1), ..PruneOptions::default() }, &mut silent).unwrap();
    assert_eq!(names(&only.removed), ["middle"]);
    assert_eq!(names(&store.list().unwrap()), ["new", "old"]);
}

#[test]
fn a_pin_outlives_the_index_and_goes_with_its_artifact() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    assert!(store.pin("tiny").unwrap() && !store.pin(&imported.digest.to_string()).unwrap());
    fs::remove_file(root.path().join("store/index.json")).unwrap();
    assert!(open(root.path()).list().unwrap()[0].pinned);
    assert!(store.prune(&to_size(0), &mut silent).unwrap().removed.is_empty());
    assert!(matches!(store.remove("tiny", false, &mut silent), Err(StoreError::Pinned { .. })));

    assert!(store.unpin("tiny").unwrap() && !store.unpin("tiny").unwrap());
    store.pin("tiny").unwrap();
    let removed = store.remove("tiny", true, &mut silent).unwrap();
    assert_eq!((removed.freed, removed.artifact.unwrap().digest), (imported.size, imported.digest));
    assert!(files_below(&root.path().join("store/pins")).is_empty());
    assert!(matches!(store.pin("tiny"), Err(StoreError::UnknownArtifact { .. })));
}

#[test]
fn removing_a_name_keeps_an_artifact_with_others() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    store.import(&root.path().join("tiny.gguf"), Some("again"), &mut silent).unwrap();
    let removed = store.remove("tiny", false, &mut silent).unwrap();
    assert_eq!((removed.artifact, removed.other_names, removed.freed), (None, vec!["again".into()], 0));

    let held = store.resolve("again").unwrap();
    let error = store.remove("again", true, &mut silent).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(held);
    // What another artifact shares stays: the weights and the tokenizer.
    let (_, other) = import(root.path(), "other");
    let removed = store.remove(&imported.digest.to_string(), false, &mut silent).unwrap();
    assert_eq!((removed.names, removed.freed), (vec!["again".into()], 0));
    let kept = store.resolve("other").unwrap();
    assert!(is_whole(&kept) && kept.manifest.size() == other.size);
}

#[test]
fn usage_counts_shared_blobs_once() {
    let root = TempDir::new().unwrap();
    let (_, one) = import(root.path(), "one");
    import(root.path(), "two");
    let (store, other) = import_distinct(root.path(), "three", 9);
    let tokenizer = store.resolve("one").unwrap().manifest.files[1].size;
    let usage = store.with_max_size(12345).usage().unwrap();
    let weights = one.size - tokenizer;
    assert_eq!(usage.total, 2 * weights + tokenizer);
    assert_eq!(usage.shared, weights + tokenizer);
    assert_eq!((usage.limit, usage.unfinished, usage.quarantined), (12345, 0, 0));
    let three = usage.artifacts.iter().find(|entry| entry.artifact.digest == other.digest).unwrap();
    assert_eq!((three.unique, three.shared), (weights, tokenizer));
    let unique: u64 = usage.artifacts.iter().map(|entry| entry.unique).sum();
    assert_eq!(usage.total, unique + usage.shared);
    let on_disk: u64 = files_below(&root.path().join("store/blobs"))
        .iter()
        .map(|file| fs::metadata(root.path().join("store/blobs").join(file)).unwrap().len())
        .sum();
    assert_eq!(usage.total, on_disk);
}

#[test]
fn an_exported_gguf_import_comes_back_with_the_same_weights() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    let folder = root.path().join("models/tiny");
    let exported = artifact.export(&folder, &mut silent).unwrap();
    assert_eq!(
        exported.files,
        [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let mode = fs::metadata(folder.join("model.safetensors")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert!(matches!(artifact.export(&folder, &mut silent), Err(StoreError::ExportTarget(_))));
    assert_eq!(fs::read_dir(root.path().join("models")).unwrap().count(), 1, "nothing is left beside it");

    let back = store.import(&folder, Some("back"), &mut silent).unwrap();
    assert!(back.new_bytes < 4096 && imported.size > 10_000, "only settings are new");
    let back = store.resolve("back").unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        let blob = |artifact: &artifact_store::Artifact| {
            artifact.manifest.files.iter().find(|file| file.name == name).unwrap().blob
        };
        assert_eq!(blob(&back), blob(&artifact));
    }
    let (old, new) = (&artifact.manifest, &back.manifest);
    assert_eq!((&old.config, &old.tensors), (&new.config, &new.tensors));
    assert_eq!((&old.chat_template, &old.bos_token), (&new.chat_template, &new.bos_token));
    assert_eq!((&old.eos_token, &old.eos_token_ids), (&new.eos_token, &new.eos_token_ids));
}

#[test]
fn an_exported_folder_is_the_imported_one() {
    let root = TempDir::new().unwrap();
    let source = huggingface_folder(&root.path().join("source"));
    let store = open(root.path());
    let imported = store.import(&source, Some("folder"), &mut silent).unwrap();
    let target = root.path().join("target");
    fs::create_dir(&target).unwrap();
    store.resolve("folder").unwrap().export(&target, &mut silent).unwrap();
    for file in files_below(&source) {
        if file != "model.safetensors.index.json" {
            assert_eq!(
                fs::read(source.join(&file)).unwrap(),
                fs::read(target.join(&file)).unwrap(),
                "{file}"
            );
        }
    }
    assert_eq!(files_below(&target), files_below(&source));
    let back = store.import(&target, Some("back"), &mut silent).unwrap();
    assert!(back.already_stored && back.digest == imported.digest);
}

#[test]
fn a_name_that_moves_on_leaves_its_old_artifact_pinned() {
    let root = TempDir::new().unwrap();
    let (store, first) = import(root.path(), "tiny");
    store.pin("tiny").unwrap();
    let mut gguf: Gguf = tiny_llama();
    gguf.set("tokenizer.chat_template", text("changed"));
    gguf.write(&source(root.path(), "tiny"));
    let second = store.import(&root.path().join("tiny.gguf"), None, &mut silent).unwrap();
    assert_eq!(second.replaced, Some(first.digest));
    let listed = store.list().unwrap();
    let pinned: Vec<_> = listed.iter().filter(|artifact| artifact.pinned).collect();
    assert_eq!((pinned.len(), pinned[0].digest), (1, first.digest));
}
