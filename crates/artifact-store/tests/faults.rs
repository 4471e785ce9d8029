//! Stores that others, or the disk, have spoiled.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[path = "support/stores.rs"]
mod stores;
mod support;

use std::{
    fs,
    io::{ErrorKind, Write},
    ops::ControlFlow,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use artifact_store::{
    ArtifactState, Digest, ImportEvent, Problem, PruneOptions, RepairAction, Store, StoreError,
    VerifyOptions, with_causes,
};
use stores::{import, import_distinct, is_whole, open, silent, spoil, this_binary, weights_of};
use support::{files_below, huggingface_folder};
use tempfile::TempDir;

const ROOT: &str = "STORE_FAULTS_ROOT";

fn to_nothing() -> PruneOptions {
    PruneOptions { max_size: Some(0), ..PruneOptions::default() }
}

/// Puts a manifest of another form in the place of an artifact's, as the
/// program that wrote it would have.
fn rewrite_manifest(root: &Path, digest: Digest, change: impl FnOnce(&mut serde_json::Value)) -> Digest {
    let path = |digest| root.join(format!("store/artifacts/{digest}.json"));
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(path(digest)).unwrap()).unwrap();
    change(&mut manifest);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let changed = Digest::of(&bytes);
    fs::write(path(changed), bytes).unwrap();
    fs::remove_file(path(digest)).unwrap();
    changed
}

#[test]
fn an_artifact_of_a_newer_version_is_left_alone() {
    let root = TempDir::new().unwrap();
    let (store, newer) = import_distinct(root.path(), "newer", 1);
    import_distinct(root.path(), "other", 2);
    let newer = rewrite_manifest(root.path(), newer.digest, |manifest| {
        manifest["format"] = 99.into();
        manifest["files"] = serde_json::json!({ "changed": manifest["files"] });
    });
    spoil(&root.path().join("store/refs/newer"), |bytes| *bytes = newer.to_string().into_bytes());
    let error = store.resolve("newer").unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { format: 99, .. }), "{error}");
    assert!(error.to_string().contains("use a newer version"), "{error}");

    // The others are managed as ever, and its blobs stay.
    let blobs = |_: ()| files_below(&root.path().join("store/blobs")).len();
    assert_eq!(blobs(()), 3, "two weights and the tokenizer they share");
    assert_eq!(store.prune(&to_nothing(), &mut silent).unwrap().removed.len(), 1);
    assert_eq!(blobs(()), 2);
    let listed = store.list().unwrap();
    assert_eq!((listed[0].state, &listed[0].names[0]), (ArtifactState::Unreadable, &"newer".to_owned()));
    let report = store.repair(false, &mut silent).unwrap();
    assert!(
        matches!(&report.problems[..], [Problem::Manifest { names, .. }] if names[0] == "newer"),
        "{report:?}"
    );
    import_distinct(root.path(), "third", 3);
    assert_eq!(blobs(()), 3);
    store.remove("newer", false, &mut silent).unwrap();
    assert_eq!(blobs(()), 2, "asked to, it goes");
}

#[test]
fn a_damaged_manifest_stops_no_other_command() {
    let root = TempDir::new().unwrap();
    let (store, bad) = import_distinct(root.path(), "bad", 1);
    import_distinct(root.path(), "good", 2);
    spoil(&root.path().join(format!("store/artifacts/{}.json", bad.digest)), |bytes| bytes[20] ^= 1);
    let before = files_below(&root.path().join("store/blobs"));
    let report = store.repair(false, &mut silent).unwrap();
    assert!(
        matches!(&report.problems[..], [Problem::Manifest { names, .. }] if names[0] == "bad"),
        "{report:?}"
    );
    assert_eq!(store.prune(&to_nothing(), &mut silent).unwrap().removed.len(), 1);
    assert_eq!(files_below(&root.path().join("store/blobs")).len(), before.len() - 1, "only `good`'s went");
    assert_eq!(store.usage().unwrap().artifacts.len(), 1);
    let (store, again) = import_distinct(root.path(), "bad", 1);
    assert_eq!((again.digest, again.new_bytes), (bad.digest, 0), "its blobs were kept");
    assert!(is_whole(&store.resolve("bad").unwrap()));
}

#[test]
fn names_cannot_leave_the_store() {
    let root = TempDir::new().unwrap();
    let (store, tiny) = import(root.path(), "tiny");
    fs::write(root.path().join("outside"), tiny.digest.to_string()).unwrap();
    for name in ["../outside", "..%2Foutside", "/etc/passwd", "a/../../outside"] {
        assert!(matches!(store.resolve(name), Err(StoreError::UnknownArtifact { .. })), "{name}");
        assert!(store.pin(name).is_err() && store.remove(name, true, &mut silent).is_err(), "{name}");
        let refused = store.import(&root.path().join("tiny.gguf"), Some(name), &mut silent);
        assert!(matches!(refused, Err(StoreError::BadName(_))), "{name}");
    }
    // One that somebody put there by hand is no name.
    fs::write(root.path().join("store/refs/..%2F..%2Foutside"), tiny.digest.to_string()).unwrap();
    assert_eq!(store.refs().unwrap(), [("tiny".to_owned(), tiny.digest)]);
    assert!(matches!(store.repair(false, &mut silent).unwrap().problems[..], [Problem::Foreign(_)]));
    assert!(root.path().join("outside").exists());
}

#[test]
fn links_in_the_store_are_not_followed() {
    let root = TempDir::new().unwrap();
    let (store, tiny) = import(root.path(), "tiny");
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let orphan = outside.join(Digest::of(b"precious").to_string());
    fs::write(&orphan, "precious").unwrap();
    fs::write(outside.join("ref"), tiny.digest.to_string()).unwrap();
    let inside = |name: &str| root.path().join("store").join(name);
    symlink(&outside, inside("tmp/link")).unwrap();
    symlink(&outside, inside("blobs/sha256/00")).unwrap();
    symlink(outside.join("ref"), inside("refs/linked")).unwrap();

    assert!(store.resolve("linked").is_err());
    assert_eq!(store.list().unwrap().len(), 1);
    let report = store.repair(false, &mut silent).unwrap();
    assert!(report.actions.contains(&RepairAction::DropName { name: "linked".to_owned() }), "{report:?}");
    assert!(report.problems.contains(&Problem::Foreign(inside("blobs/sha256/00"))), "{report:?}");
    assert_eq!(fs::read_to_string(&orphan).unwrap(), "precious");
    assert!(outside.join("ref").exists() && !inside("tmp/link").exists());
    assert!(is_whole(&store.resolve("tiny").unwrap()));
}

#[test]
fn files_of_others_are_left_alone_and_stop_nothing() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    let strays = ["blobs/sha256/.DS_Store", "artifacts/.DS_Store", "refs/.DS_Store"];
    for stray in strays {
        fs::write(root.path().join("store").join(stray), "x").unwrap();
    }
    import_distinct(root.path(), "other", 4);
    assert_eq!(store.list().unwrap().len(), 2);
    let report = store.repair(false, &mut silent).unwrap();
    assert_eq!((report.actions.len(), report.problems.len()), (0, strays.len()), "{report:?}");
    assert!(strays.iter().all(|stray| root.path().join("store").join(stray).exists()));
}

/// Runs one of the children below with a file system of `size` for its store;
/// `None` where the machine can't give us one.
fn on_small_disk(root: &Path, child: &str, size: &str) -> Option<Output> {
    fs::create_dir_all(root.join("store")).unwrap();
    let mount = "mount -t tmpfs -o size=\"$SIZE\" tmpfs \"$STORE\"";
    let unshare = |script: String| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command.env("SIZE", size).env("STORE", root.join("store"));
        command
    };
    if !unshare(mount.to_owned()).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine lets us mount no small file system (unshare --user --mount)");
        return None;
    }
    let binary = this_binary(child);
    let words = std::iter::once(binary.get_program()).chain(binary.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    Some(unshare(format!("{mount} && exec {}", words.join(" "))).env(ROOT, root).output().unwrap())
}

fn child_root() -> Option<PathBuf> {
    std::env::var_os(ROOT).map(PathBuf::from)
}

fn assert_passed(output: Option<Output>) {
    let passed = |output: &Output| output.status.success();
    assert!(output.as_ref().is_none_or(passed), "{}", String::from_utf8_lossy(&output.unwrap().stdout));
}

#[test]
fn a_full_disk_is_refused_early_or_undone() {
    let root = TempDir::new().unwrap();
    assert_passed(on_small_disk(root.path(), "child_full_disk", "40m"));
}

#[test]
fn child_full_disk() {
    let Some(root) = child_root() else { return };
    let (store, _) = import(&root, "before");
    let before = files_below(&root.join("store"));
    let large = huggingface_folder(&root.join("large"));
    let weigh = |megabytes: usize| {
        let shard = support::safetensors(&[("b", vec![1.5; megabytes << 18])]);
        fs::write(large.join("model-2.safetensors"), shard).unwrap();
    };

    // It can't fit: refused before a byte is written.
    weigh(38);
    let error = store.import(&large, None, &mut silent).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert_eq!(files_below(&root.join("store")), before);

    // It fits, and then somebody else fills the disk.
    weigh(12);
    let ballast = root.join("store/ballast");
    let error = store.import(&large, None, &mut |event| {
        if matches!(event, ImportEvent::Advanced(_)) && !ballast.exists() {
            let mut file = fs::File::create(&ballast).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
        }
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err();
    let full = matches!(&error, StoreError::Io { source, .. } if source.kind() == ErrorKind::StorageFull);
    assert!(full && with_causes(&error).contains("No space left"), "{error}");
    assert!(is_whole(&store.resolve("before").unwrap()));
    // The same where `before` would have had to go.
    fs::remove_file(&ballast).unwrap();
    let tight = store.clone().with_max_size((12 << 20) + (1 << 13));
    let error = tight.import(&large, None, &mut |event| {
        if matches!(event, ImportEvent::Advanced(_)) && !ballast.exists() {
            let mut file = fs::File::create(&ballast).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(error, Err(StoreError::Io { .. })), "{error:?}");
    assert!(is_whole(&store.resolve("before").unwrap()));
    assert!(files_below(&root.join("store/tmp")).is_empty());

    // Making room works on the full disk, too.
    while fs::OpenOptions::new().append(true).open(&ballast).unwrap().write_all(&[0; 4096]).is_ok() {}
    let freed = store.remove("before", false, &mut silent).unwrap().freed;
    assert!(freed > 0 && store.list().unwrap().is_empty());
    fs::remove_file(&ballast).unwrap();
    store.import(&large, None, &mut silent).unwrap();
    assert!(is_whole(&store.resolve("large").unwrap()));

    // The limit would let it replace `large`, but both do not fit on the disk at once.
    weigh(20);
    let tight = store.clone().with_max_size(30 << 20);
    let before = files_below(&root.join("store"));
    let error = tight.import(&large, Some("larger"), &mut silent).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert_eq!(files_below(&root.join("store")), before);
}

#[test]
fn a_read_only_store_serves_and_refuses_changes() {
    let root = TempDir::new().unwrap();
    assert_passed(on_small_disk(root.path(), "child_read_only", "40m"));
}

#[test]
fn child_read_only() {
    let Some(root) = child_root() else { return };
    import_distinct(&root, "bad", 2);
    let (store, _) = import(&root, "tiny");
    let bad = weights_of(&store.resolve("bad").unwrap());
    spoil(&bad, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(root.join("store")).status().unwrap();
    assert!(remount.success());

    let store: Store = open(&root);
    assert!(is_whole(&store.resolve("tiny").unwrap()));
    assert_eq!((store.list().unwrap().len(), store.usage().unwrap().artifacts.len()), (2, 2));
    let artifact = store.resolve("bad").unwrap();
    let verified = artifact.verify(&VerifyOptions::all_cores(), &|_| ControlFlow::Continue(())).unwrap();
    assert!(verified.failed.len() == 1 && !verified.failed[0].quarantined && bad.exists());
    drop(artifact);
    let source = root.join("tiny.gguf");
    let refusals = [
        store.import(&source, None, &mut silent).map(drop),
        store.pin("tiny").map(drop),
        store.remove("tiny", false, &mut silent).map(drop),
        store.prune(&to_nothing(), &mut silent).map(drop),
        store.repair(false, &mut silent).map(drop),
    ];
    for refused in refusals {
        let error = with_causes(&refused.unwrap_err());
        assert!(error.contains("Read-only file system"), "{error}");
    }
    assert!(is_whole(&store.resolve("tiny").unwrap()));
}
