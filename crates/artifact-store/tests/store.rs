//! The store itself: look-up, damage, the index, cancelling, taking turns.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/stores.rs"]
mod stores;
mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use artifact_store::{ImportEvent, PruneOptions, Store, StoreError};
use stores::{import, silent, source, spoil};
use support::{files_below, tiny_llama};
use tempfile::TempDir;

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
    let blobs = files_below(&root.path().join("store/blobs"));
    let all = PruneOptions { max_size: Some(0), ..PruneOptions::default() };
    assert!(store.prune(&all, &mut silent).unwrap().removed.is_empty());
    assert_eq!(files_below(&root.path().join("store/blobs")), blobs, "what it may need stays");
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
    let before = files_below(&root.path().join("store"));
    let mut second = tiny_llama();
    second.tensors[1].data[0] = 9;
    let second = second.write(&root.path().join("second.gguf"));
    let import = |cancel_at: usize| {
        let mut events = 0;
        let result = store.import(&second, None, &mut |_| {
            events += 1;
            if events > cancel_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (result, events)
    };
    for cancel_at in 0.. {
        let (result, events) = import(cancel_at);
        if events <= cancel_at {
            assert!(result.is_ok() && cancel_at > 5);
            break;
        }
        assert!(matches!(result, Err(StoreError::Cancelled)), "{cancel_at}");
        assert_eq!(files_below(&root.path().join("store")), before, "{cancel_at}");
        assert_eq!(store.refs().unwrap(), [("first".to_owned(), first.digest)]);
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

/// Permissions of everything in a store that is a folder or is locked.
fn modes(store: &Path) -> BTreeMap<String, u32> {
    let mut modes = BTreeMap::new();
    let mut folders = vec![store.to_owned()];
    let mut note = |path: &Path| {
        let name = path.strip_prefix(store).unwrap().to_str().unwrap().to_owned();
        modes.insert(name, fs::metadata(path).unwrap().permissions().mode() & 0o777);
    };
    while let Some(folder) = folders.pop() {
        note(&folder);
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let is_lock = folder.ends_with("leases") || path.to_str().unwrap().ends_with(".lock");
            match path.is_dir() {
                true => folders.push(path),
                false if is_lock => note(&path),
                false => {}
            }
        }
    }
    modes
}

#[test]
fn nobody_else_can_reach_a_store_or_lock_it() {
    let root = TempDir::new().unwrap();
    let (store, _) = import(root.path(), "tiny");
    store.pin("tiny").unwrap();
    let _hold = store.hold_blobs().unwrap();
    let dir = root.path().join("store");
    let tight = modes(&dir);
    assert!(tight.len() > 12 && tight.contains_key(".lock"), "{tight:?}");
    for (name, mode) in &tight {
        let expected = if dir.join(name).is_dir() { 0o700 } else { 0o600 };
        assert_eq!(*mode, expected, "{name}");
    }

    // One that an earlier version made.
    for open in [|dir: &Path| Store::open(dir).map(drop), |dir: &Path| Store::open_read_only(dir).map(drop)] {
        for name in tight.keys() {
            let path = dir.join(name);
            let mode = if path.is_dir() { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        open(&dir).unwrap();
        assert_eq!(modes(&dir), tight);
    }
    // A folder that has other things in it, too.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("letter"), "").unwrap();
    Store::open(&dir).unwrap();
    assert_eq!(modes(&dir)[""], 0o755);
    assert!(stores::is_whole(&store.resolve("tiny").unwrap()));
}

#[test]
fn a_process_that_keeps_a_lock_is_named_in_time() {
    let root = TempDir::new().unwrap();
    let (store, imported) = import(root.path(), "tiny");
    let store = store.with_lock_timeout(Duration::from_millis(20));
    let locked = |what: &str, file: &str, attempt: &dyn Fn() -> Result<(), StoreError>| {
        let path = root.path().join("store").join(file);
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        let error = attempt().unwrap_err();
        let StoreError::Locked { path: named, holders, .. } = &error else { panic!("{what}: {error}") };
        assert_eq!(*named, path, "{what}");
        let own = holders.iter().any(|holder| holder.pid == std::process::id());
        assert!(own || cfg!(not(target_os = "linux")), "{what}: {error}");
        drop(held);
        attempt().unwrap();
    };
    let lease = format!("leases/{}", imported.digest);
    locked("load", &lease, &|| store.resolve("tiny").map(drop));
    locked("pin", &lease, &|| store.pin("tiny").map(drop));
    locked("hold", ".blobs.lock", &|| store.hold_blobs().map(drop));
    let source = root.path().join("tiny.gguf");
    locked("import", ".lock", &|| store.import(&source, None, &mut silent).map(drop));
    locked("prune", ".lock", &|| store.prune(&PruneOptions::default(), &mut silent).map(drop));
}

#[test]
fn names_differ_in_more_than_case() {
    let root = TempDir::new().unwrap();
    let (store, first) = import(root.path(), "tiny");
    let other = source(root.path(), "other");
    let refused = store.import(&other, Some("Tiny"), &mut silent);
    assert!(
        matches!(&refused, Err(StoreError::SimilarName { existing, .. }) if existing == "tiny"),
        "{refused:?}"
    );
    assert_eq!(store.refs().unwrap(), [("tiny".to_owned(), first.digest)]);
    // Those that an earlier version let in can still be imported again.
    let refs = root.path().join("store/refs");
    fs::copy(refs.join("tiny"), refs.join("TINY")).unwrap();
    store.import(&other, Some("tiny"), &mut silent).unwrap();
    store.import(&other, Some("TINY"), &mut silent).unwrap();
    store.import(&other, Some("org/tiny"), &mut silent).unwrap();
}

/// An import that replaces a model and evicts the old one holds that one's lease meanwhile.
#[cfg(target_os = "linux")]
#[test]
fn who_waits_for_a_model_that_is_being_replaced_gets_the_new_one() {
    let root = TempDir::new().unwrap();
    let (store, old) = import(root.path(), "tiny");
    let new = store.import(&source(root.path(), "new"), None, &mut silent).unwrap();
    let lease_path = root.path().join(format!("store/leases/{}", old.digest));
    let lease = File::open(&lease_path).unwrap();
    lease.lock().unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| store.resolve("tiny").unwrap().digest);
        // It has read the name once it has opened the lease, too.
        let open_leases = || {
            let open =
                fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            open.filter(|path| *path == lease_path).count()
        };
        while open_leases() < 2 {
            thread::yield_now();
        }
        fs::write(root.path().join("name"), format!("{}\n", new.digest)).unwrap();
        fs::rename(root.path().join("name"), root.path().join("store/refs/tiny")).unwrap();
        fs::remove_file(root.path().join(format!("store/artifacts/{}.json", old.digest))).unwrap();
        drop(lease);
        assert_eq!(reader.join().unwrap(), new.digest);
    });
}
