//! Verification and quarantine.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/stores.rs"]
mod stores;
mod support;

use std::{
    fs::{self, File},
    io::{Read, Seek},
    num::NonZeroUsize,
    ops::ControlFlow,
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use artifact_store::{
    Artifact, ArtifactState, BlobDefect, RepairAction, Store, StoreError, Verified, VerifyEvent,
    VerifyOptions,
};
use stores::{import, import_distinct, is_whole, silent, spoil, weights_of};
use support::files_below;
use tempfile::TempDir;

fn verify(artifact: &Artifact) -> Verified {
    artifact.verify(&VerifyOptions::all_cores(), &|_| ControlFlow::Continue(())).unwrap()
}

fn flip_last_bit(path: &Path) {
    spoil(path, |bytes| *bytes.last_mut().unwrap() ^= 1);
}

#[test]
fn a_flipped_bit_is_found_and_set_aside_and_a_new_import_mends_it() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    assert!(verify(&artifact).failed.is_empty());
    let weights = artifact.manifest.files[0].clone();
    flip_last_bit(&weights_of(&artifact));
    artifact.open_blob(&weights).unwrap();
    // As a worker has it: open, as its mapping would be.
    let mut mapped = File::open(weights_of(&artifact)).unwrap();

    let verified = verify(&artifact);
    assert_eq!((verified.digest, verified.name.as_str(), verified.blobs), (imported.digest, "tiny", 2));
    let failed = &verified.failed[0];
    assert!(failed.quarantined && matches!(failed.defect, BlobDefect::Digest { .. }), "{failed:?}");
    assert_eq!((failed.blob, &failed.files[..]), (weights.blob, &["model.safetensors".to_owned()][..]));
    assert_eq!(failed.path, root.path().join(format!("store/quarantine/{}", weights.blob)));
    let error = verified.into_result().unwrap_err();
    assert!(error.to_string().contains("Import or pull the same source again"), "{error}");

    let mut bytes = Vec::new();
    mapped.rewind().and_then(|()| mapped.read_to_end(&mut bytes)).unwrap();
    assert_eq!(bytes.len() as u64, weights.size, "who has it open keeps it");
    let error = store.resolve("tiny").unwrap().open_blob(&weights).unwrap_err();
    assert!(matches!(error, StoreError::Quarantined { .. }), "{error}");
    assert_eq!(store.list().unwrap()[0].state, ArtifactState::Quarantined);
    let again = verify(&artifact);
    assert_eq!((&again.failed[0].defect, again.failed[0].quarantined), (&BlobDefect::Missing, true));

    let (store, mended) = import(root.path(), "tiny");
    assert!(mended.already_stored && mended.new_bytes == weights.size);
    assert!(is_whole(&store.resolve("tiny").unwrap()));
    assert_eq!(store.list().unwrap()[0].state, ArtifactState::Ready);
    assert!(files_below(&root.path().join("store/quarantine")).is_empty());
}

#[test]
fn truncated_and_missing_blobs_and_links_are_found() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    let path = weights_of(&artifact);
    let size = artifact.manifest.files[0].size;
    let defect = || verify(&artifact).failed[0].defect.clone();

    spoil(&path, |bytes| bytes.truncate(100));
    assert_eq!(defect(), BlobDefect::Size { expected: size, found: 100 });
    fs::remove_dir_all(root.path().join("store/quarantine")).unwrap();
    assert_eq!(defect(), BlobDefect::Missing);
    let error = artifact.open_blob(&artifact.manifest.files[0]).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");

    // A link, even to the right bytes, is nothing of the store's.
    import(root.path(), "tiny");
    let elsewhere = root.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(artifact.open_blob(&artifact.manifest.files[0]).is_err());
    assert_eq!(defect(), BlobDefect::NotAFile);
    assert!(elsewhere.exists());
    import(root.path(), "tiny");
    assert!(is_whole(&artifact));
}

#[test]
fn a_shared_blob_is_read_once_and_fails_every_artifact() {
    let root = TempDir::new().unwrap();
    import(root.path(), "one");
    let (store, _) = import(root.path(), "two");
    import_distinct(root.path(), "three", 9);
    let artifacts: Vec<_> = ["one", "two", "three"].map(|name| store.resolve(name).unwrap()).into();
    flip_last_bit(&weights_of(&artifacts[0]));
    for jobs in [1, 2, 16] {
        let options = VerifyOptions {
            jobs: NonZeroUsize::new(jobs).unwrap(),
            quarantine: false,
            ..VerifyOptions::all_cores()
        };
        let (planned, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let verified = store.verify(&artifacts, &options, &|event| {
            match event {
                VerifyEvent::Planned(bytes) => planned.store(bytes, Ordering::Relaxed),
                VerifyEvent::Advanced(bytes) => _ = done.fetch_add(bytes, Ordering::Relaxed),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let failed: Vec<_> = verified.unwrap().iter().map(|artifact| artifact.failed.len()).collect();
        assert_eq!(failed, [1, 1, 0], "{jobs}");
        let total = store.usage().unwrap().total;
        assert_eq!((planned.into_inner(), done.into_inner()), (total, total));
    }
    assert!(files_below(&root.path().join("store")).iter().all(|file| !file.starts_with("quarantine")));
}

#[test]
fn a_verification_can_be_cancelled() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    let stop = |event| match event {
        VerifyEvent::Advanced(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let result = artifact.verify(&VerifyOptions::in_background(), &stop);
    assert!(matches!(result, Err(StoreError::Cancelled)));
}

#[test]
fn in_the_background_the_result_comes_on_another_thread() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    flip_last_bit(&weights_of(&artifact));
    let (sender, results) = mpsc::channel();
    let work = artifact.verify_in_background(move |result| sender.send(result).unwrap()).unwrap();
    let verified = results.recv().unwrap().unwrap();
    assert_eq!((verified.name.as_str(), verified.failed.len()), ("tiny", 1));
    assert!(verified.failed[0].quarantined);
    drop(work);
    drop(artifact);
    // Its lease has ended with it.
    store.remove("tiny", false, &mut silent).unwrap();
}

#[test]
fn a_store_that_is_only_read_is_verified_without_a_change() {
    let root = TempDir::new().unwrap();
    import(root.path(), "tiny");
    let store = Store::open_read_only(root.path().join("store")).unwrap();
    let artifact = store.resolve("tiny").unwrap();
    flip_last_bit(&weights_of(&artifact));
    let before = files_below(&root.path().join("store"));
    let verified = verify(&artifact);
    assert!(!verified.failed[0].quarantined);
    assert!(matches!(verified.into_result(), Err(StoreError::Damaged { .. })));
    assert_eq!(files_below(&root.path().join("store")), before);
}

#[test]
fn a_blob_that_is_good_after_all_is_put_back() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    let good = fs::read(weights_of(&artifact)).unwrap();
    flip_last_bit(&weights_of(&artifact));
    let failed = verify(&artifact).failed.remove(0);
    spoil(&failed.path, |bytes| *bytes = good);
    let report = store.repair(false, &mut silent).unwrap();
    assert!(report.actions.contains(&RepairAction::RestoreBlob { blob: failed.blob }), "{report:?}");
    assert!(report.problems.is_empty() && is_whole(&artifact));
}

/// An import that replaces the bad file between the look and the move.
#[test]
fn a_blob_that_is_mended_meanwhile_stays() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let path = weights_of(&store.resolve("tiny").unwrap());
    let good = root.path().join("good");
    fs::copy(&path, &good).unwrap();
    flip_last_bit(&path);
    let mended = path.clone();
    let store = store.with_fs_op_hook(move |step| {
        if step.action == "move" && step.path.parent().is_some_and(|folder| folder.ends_with("quarantine")) {
            fs::rename(&good, &mended).unwrap();
        }
    });
    let artifact = store.resolve("tiny").unwrap();
    assert!(verify(&artifact).failed.is_empty());
    assert!(is_whole(&artifact) && path.exists());
    assert!(files_below(&root.path().join("store/quarantine")).is_empty());
}

#[test]
fn what_nobody_needs_leaves_the_quarantine() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    flip_last_bit(&weights_of(&artifact));
    verify(&artifact);
    drop(artifact);
    let problems = store.repair(false, &mut silent).unwrap().problems;
    assert!(
        problems.len() == 1 && problems[0].to_string().contains("cache-tool remove tiny"),
        "{problems:?}"
    );
    store.remove("tiny", false, &mut silent).unwrap();
    store.import(&root.path().join("tiny.gguf"), None, &mut silent).unwrap();
    assert!(files_below(&root.path().join("store/quarantine")).is_empty());
}
