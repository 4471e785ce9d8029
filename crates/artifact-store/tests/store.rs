//! The store itself: look-up, damage, crashes, locks, pruning.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs::{self, File, Permissions},
    ops::ControlFlow,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use artifact_store::{CommitStep, FileRole, ImportEvent, Imported, Store, StoreError};
use support::{Gguf, files_below, text, tiny_llama};
use tempfile::TempDir;

/// Folder of the store that the killed child writes to.
const CHILD_ROOT: &str = "STORE_TEST_ROOT";
/// How many commit steps the child survives.
const CHILD_STEPS: &str = "STORE_TEST_STEPS";

fn silent(_: ImportEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Writes a GGUF file and imports it under `name`; another `name` is another artifact.
fn import(root: &Path, name: &str) -> (Store, Imported) {
    let source = source(root, name);
    let store = Store::open(root.join("store")).unwrap();
    let imported = store.import(&source, Some(name), &mut silent).unwrap();
    (store, imported)
}

/// The artifacts share their weights and differ in their configuration.
fn source(root: &Path, name: &str) -> PathBuf {
    let mut gguf: Gguf = tiny_llama();
    gguf.set("tokenizer.chat_template", text(name));
    gguf.write(&root.join(format!("{name}.gguf")))
}

/// The same with weights of its own.
fn import_distinct(root: &Path, name: &str, byte: u8) -> (Store, Imported) {
    let mut gguf = tiny_llama();
    gguf.tensors[1].data[0] = byte;
    gguf.set("tokenizer.chat_template", text(name));
    let source = gguf.write(&root.join(format!("{name}.gguf")));
    let store = Store::open(root.join("store")).unwrap();
    let imported = store.import(&source, Some(name), &mut silent).unwrap();
    (store, imported)
}

fn spoil(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_artifact_is_found_by_name_and_by_digest() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    let digest = imported.digest.to_string();
    for key in ["tiny", &digest, &format!("sha256:{digest}"), &digest[..8]] {
        assert_eq!(store.resolve(key).unwrap().digest, imported.digest, "{key}");
    }
    let read_only = Store::open_read_only(root.path().join("store")).unwrap();
    assert_eq!(read_only.resolve("tiny").unwrap().digest, imported.digest);
    let refused = read_only.import(&root.path().join("tiny.gguf"), None, &mut silent);
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))));
}

#[test]
fn an_unknown_name_says_which_there_are_and_what_to_do() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let digest = artifact_store::Digest::of(b"other").to_string();
    for key in ["other", "../store/refs/tiny", &digest, "0123456"] {
        let text = store.resolve(key).unwrap_err().to_string();
        assert!(text.contains("stored are: tiny") && text.contains("cache-tool --store"), "{text}");
    }
    assert_eq!(files_below(&root.path().join("store/leases")).len(), 1, "asking leaves nothing behind");
    assert!(matches!(Store::open_read_only(root.path().join("none")), Err(StoreError::NoStore(_))));
}

#[test]
fn importing_again_stores_nothing_new() {
    let root = TempDir::new().unwrap();
    let (_, first) = import(root.path(), "tiny");
    let before = files_below(&root.path().join("store"));
    let (_, second) = import(root.path(), "tiny");
    assert!(!first.already_stored && second.already_stored);
    assert_eq!((second.digest, second.new_bytes), (first.digest, 0));
    assert_eq!(files_below(&root.path().join("store")), before);
}

#[test]
fn damaged_files_are_not_loaded_and_a_new_import_mends_them() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    let artifact = store.resolve("tiny").unwrap();
    let weights = &artifact.manifest.files[0];
    let tokenizer = &artifact.manifest.files[1];
    let damaged = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Damaged { .. })));

    let path = artifact.blob_path(weights);
    spoil(&path, |bytes| bytes.truncate(bytes.len() - 1));
    damaged(artifact.open_blob(weights).map(drop));
    import(root.path(), "tiny");
    artifact.open_blob(weights).unwrap();
    // Another shape of the same length: the size is right, the header is not the manifest's.
    spoil(&path, |bytes| {
        let text = String::from_utf8_lossy(&bytes[..4000]).into_owned();
        let place = text.find("[6,16]").unwrap();
        bytes[place..place + 6].copy_from_slice(b"[16,6]");
    });
    damaged(artifact.open_blob(weights).map(drop));

    spoil(&artifact.blob_path(tokenizer), |bytes| bytes[9] ^= 1);
    damaged(artifact.read_tokenizer().map(drop));

    let manifest = root.path().join(format!("store/artifacts/{}.json", imported.digest));
    spoil(&manifest, |bytes| bytes.push(b' '));
    damaged(store.resolve("tiny").map(drop));
    damaged(store.prune(0, false).map(drop));
    import(root.path(), "tiny");
    let mended = store.resolve("tiny").unwrap();
    mended.open_blob(weights).unwrap();
    mended.read_tokenizer().unwrap();
}

#[test]
fn the_index_is_rebuilt_when_it_is_lost_or_spoiled() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    let listed = store.list().unwrap();
    assert_eq!((listed.len(), listed[0].size, listed[0].digest), (1, imported.size, imported.digest));
    assert_eq!(listed[0].names, ["tiny"]);
    let index = root.path().join("store/index.json");
    for spoiled in [&b"{"[..], b"{\"format\":99,\"artifacts\":{}}", b"{\"format\":1,\"artifacts\":{}}"] {
        spoil(&index, |bytes| *bytes = spoiled.to_vec());
        let again = store.list().unwrap();
        assert_eq!((again[0].size, again[0].digest), (imported.size, imported.digest));
    }
    fs::remove_file(&index).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    import(root.path(), "other");
    assert!(index.exists(), "the next writer stores it");
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn use_is_recorded_without_writing_the_index() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    let lease = root.path().join(format!("store/leases/{}", imported.digest));
    let long_ago = SystemTime::now() - Duration::from_secs(10_000);
    File::options().write(true).open(&lease).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(store.list().unwrap()[0].last_use, long_ago);
    let index = fs::read(root.path().join("store/index.json")).unwrap();
    store.resolve("tiny").unwrap().record_use().unwrap();
    assert!(store.list().unwrap()[0].last_use > long_ago + Duration::from_secs(9_000));
    assert_eq!(fs::read(root.path().join("store/index.json")).unwrap(), index);
}

#[test]
fn a_cancelled_import_leaves_the_store_as_it_was() {
    let root = TempDir::new().unwrap();
    let (store, first) = import(root.path(), "first");
    let before = files_below(&root.path().join("store/blobs"));
    let mut second = tiny_llama();
    second.tensors[1].data[0] = 9;
    let second = second.write(&root.path().join("second.gguf"));
    // Two blobs (the tokenizer is shared), manifest; then it exists.
    for steps in 0..3 {
        let mut left = steps;
        let result = store.import(&second, None, &mut |event| match event {
            ImportEvent::Committing(_) if left == 0 => ControlFlow::Break(()),
            ImportEvent::Committing(_) => {
                left -= 1;
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        });
        assert!(matches!(result, Err(StoreError::Cancelled)), "{steps}");
        assert_eq!(files_below(&root.path().join("store/blobs")), before, "{steps}");
        assert!(files_below(&root.path().join("store/tmp")).is_empty());
        assert_eq!(store.refs().unwrap(), [("first".to_owned(), first.digest)]);
    }
}

/// Imports and, if told to, dies in the middle of it as if killed.
#[test]
fn child_import() {
    let steps: Option<u32> = std::env::var(CHILD_STEPS).ok().map(|steps| steps.parse().unwrap());
    let own = TempDir::new().unwrap();
    let root = std::env::var_os(CHILD_ROOT).map_or(own.path().to_owned(), PathBuf::from);
    let mut left = steps;
    let source = source(&root, "tiny");
    let store = Store::open(root.join("store")).unwrap();
    store
        .import(&source, Some("tiny"), &mut |event| {
            if matches!(event, ImportEvent::Committing(_)) {
                match &mut left {
                    Some(0) => std::process::abort(),
                    Some(left) => *left -= 1,
                    None => {}
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(steps, None, "the child should not have survived");
    store.resolve("tiny").unwrap();
}

#[test]
fn a_killed_import_leaves_nothing_half_stored() {
    // Two blobs, manifest, index, name: before each of them, and none is left after.
    for steps in 0..5 {
        let root = TempDir::new().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["child_import", "--exact", "--quiet"])
            .env(CHILD_ROOT, root.path())
            .env(CHILD_STEPS, steps.to_string())
            .output()
            .unwrap()
            .status;
        assert!(status.signal().is_some(), "killed at step {steps}: {status}");

        let store = Store::open(root.path().join("store")).unwrap();
        assert!(store.refs().unwrap().is_empty());
        // Whatever is listed is complete.
        for listed in store.list().unwrap() {
            let artifact = store.resolve(&listed.digest.to_string()).unwrap();
            artifact.open_blob(&artifact.manifest.files[0]).unwrap();
            artifact.read_tokenizer().unwrap();
        }
        let existed = !store.list().unwrap().is_empty();
        assert_eq!(existed, steps >= 3, "it exists once its manifest does");

        // The next writer removes what is left, and the same import succeeds.
        store.prune(0, false).unwrap();
        assert!(files_below(&root.path().join("store/blobs")).is_empty(), "{steps}");
        assert!(files_below(&root.path().join("store/tmp")).is_empty(), "{steps}");
        import(root.path(), "tiny");
        store.resolve("tiny").unwrap();
    }
}

#[test]
fn writers_take_turns() {
    let root = TempDir::new().unwrap();
    let (first, second) = (source(root.path(), "first"), source(root.path(), "second"));
    let store = Store::open(root.path().join("store")).unwrap();
    let (entered, has_entered) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let slow = store.clone();
        scope.spawn(move || {
            let mut gate = Some((entered, may_go));
            slow.import(&first, None, &mut |event| {
                if matches!(event, ImportEvent::Planned(_))
                    && let Some((entered, may_go)) = gate.take()
                {
                    entered.send(()).unwrap();
                    may_go.recv().unwrap();
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        });
        has_entered.recv().unwrap();
        let mut waited = false;
        let import = store.import(&second, None, &mut |event| {
            if event == ImportEvent::WaitingForWriter {
                waited = true;
                go.send(()).unwrap();
            }
            // The first import is complete before the second does anything.
            if matches!(event, ImportEvent::Planned(_)) {
                store.resolve("first").unwrap();
            }
            ControlFlow::Continue(())
        });
        import.unwrap();
        assert!(waited);
    });
    assert_eq!(store.refs().unwrap().len(), 2);
}

#[test]
fn steps_come_in_the_order_that_crashes_need() {
    let root = TempDir::new().unwrap();
    let source = source(root.path(), "tiny");
    let store = Store::open(root.path().join("store")).unwrap();
    let mut steps = Vec::new();
    store
        .import(&source, None, &mut |event| {
            if let ImportEvent::Committing(step) = event {
                steps.push(step);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    use CommitStep::{Blob, Index, Manifest, Name};
    assert_eq!(steps, [Blob, Blob, Manifest, Index, Name]);
}

#[test]
fn pruning_removes_the_least_recently_used_and_nothing_shared_or_in_use() {
    let root = TempDir::new().unwrap();
    let digests = [("old", 1), ("middle", 2), ("new", 3)]
        .map(|(name, byte)| import_distinct(root.path(), name, byte).1.digest);
    let (store, _) = import_distinct(root.path(), "twin-of-old", 1);
    for (digest, age) in digests.iter().zip([3000, 2000, 1000]) {
        let lease =
            File::options().write(true).open(root.path().join(format!("store/leases/{digest}"))).unwrap();
        lease.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let names = |listed: &[artifact_store::Listed]| -> Vec<String> {
        listed.iter().flat_map(|artifact| artifact.names.clone()).collect()
    };
    let held = store.resolve("middle").unwrap();
    let before = files_below(&root.path().join("store"));
    let plan = store.prune(0, true).unwrap();
    assert_eq!(files_below(&root.path().join("store")), before, "a dry run changes nothing");
    assert_eq!(names(&plan.removed), ["old", "new", "twin-of-old"]);
    assert_eq!(names(&plan.kept_in_use), ["middle"]);

    // One byte less than there is: the oldest goes, and its twin keeps the weights.
    let report = store.prune(plan.size_before - 1, false).unwrap();
    assert_eq!(names(&report.removed)[0], "old");
    assert!(matches!(store.resolve("old"), Err(StoreError::UnknownArtifact { .. })));
    let everything = store.prune(0, false).unwrap();
    assert_eq!(everything.size_after, held.manifest.size());
    assert_eq!(names(&store.list().unwrap()), ["middle"]);
    held.open_blob(&held.manifest.files[0]).unwrap();
    held.read_tokenizer().unwrap();

    drop(held);
    assert_eq!(store.prune(0, false).unwrap().size_after, 0);
    assert!(files_below(&root.path().join("store/blobs")).is_empty());
}

#[test]
fn a_blob_that_another_artifact_shares_survives() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "one");
    import(root.path(), "two");
    let kept = store.resolve("two").unwrap();
    store.prune(0, false).unwrap();
    assert_eq!(store.list().unwrap().len(), 2, "removing `one` would free nothing");
    for (_, file) in kept.files(FileRole::Weights) {
        kept.open_blob(file).unwrap();
    }
}
