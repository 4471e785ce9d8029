//! Importing into a store that has a limit: what goes, and when.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use artifact_store::{ImportEvent, ImportOptions, Quantization, Store, StoreError};
use tempfile::TempDir;

use crate::{
    names,
    stores::{age, distinct_source, import_distinct, is_whole, open, silent},
    support::{files_below, huggingface_folder, raw_safetensors, safetensors},
    three,
};

#[test]
fn importing_makes_room_within_the_limit() {
    let root = TempDir::new().unwrap();
    let store = three(root.path());
    let limit = store.usage().unwrap().total;
    let store = store.with_max_size(limit);
    let fourth = distinct_source(root.path(), "fourth", 4);
    let imported = store.import(&fourth, None, &mut silent).unwrap();
    assert_eq!(names(&imported.evicted), ["old"]);
    assert_eq!(names(&store.list().unwrap()), ["fourth", "new", "middle"]);
    assert!(store.usage().unwrap().total <= limit);
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_evicted_or_written() {
    let root = TempDir::new().unwrap();
    let store = three(root.path());
    store.pin("old").unwrap();
    let held = store.resolve("middle").unwrap();
    let total = store.usage().unwrap().total;
    let before = files_below(&root.path().join("store"));
    let fourth = distinct_source(root.path(), "fourth", 4);
    // Even without `new` it would not fit.
    let tight = store.clone().with_max_size(total * 2 / 3);
    let error = tight.import(&fourth, None, &mut silent).unwrap_err();
    assert!(matches!(error, StoreError::OverLimit { .. }), "{error}");
    assert!(error.to_string().contains("unpin"), "{error}");
    assert_eq!(files_below(&root.path().join("store")), before);

    let imported = store.with_max_size(total).import(&fourth, None, &mut silent).unwrap();
    assert_eq!(names(&imported.evicted), ["new"], "neither pinned nor in use");
    assert!(is_whole(&held));
}

#[test]
fn a_folder_that_cannot_fit_evicts_nothing_for_its_first_shards() {
    let root = TempDir::new().unwrap();
    let (store, old) = import_distinct(root.path(), "old", 1);
    import_distinct(root.path(), "pinned", 2);
    store.pin("pinned").unwrap();
    let folder = huggingface_folder(&root.path().join("folder"));
    // Each shard would fit in the place of `old`; both would not.
    let floats = old.size as usize / 8;
    for (file, tensor) in [("model-1.safetensors", "a"), ("model-2.safetensors", "b")] {
        fs::write(folder.join(file), safetensors(&[(tensor, vec![7.0; floats * 3 / 2])])).unwrap();
    }
    let store = store.clone().with_max_size(store.usage().unwrap().total);
    let error = store.import(&folder, None, &mut silent).unwrap_err();
    assert!(matches!(error, StoreError::OverLimit { .. }), "{error}");
    assert_eq!(names(&store.list().unwrap()), ["pinned", "old"]);
}

#[test]
fn an_import_never_evicts_what_it_reuses() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("folder"));
    let store = open(root.path());
    let first = store.import(&folder, Some("first"), &mut silent).unwrap();
    age(root.path(), first.digest, 1000);
    // A second folder that shares one shard with the first.
    let second = huggingface_folder(&root.path().join("second"));
    let shard = safetensors(&[("b", vec![4.0; 5])]);
    fs::write(second.join("model-2.safetensors"), &shard).unwrap();
    let total = store.usage().unwrap().total;
    let store = store.with_max_size(total);
    let imported = store.import(&second, Some("second"), &mut silent).unwrap();
    assert_eq!(names(&imported.evicted), ["first"]);
    assert!(is_whole(&store.resolve("second").unwrap()));
}

/// A store that is full of `old`, with the limit that it has reached.
fn full(root: &Path) -> Store {
    let (store, old) = import_distinct(root, "old", 1);
    age(root, old.digest, 1000);
    let total = store.usage().unwrap().total;
    store.with_max_size(total)
}

/// A folder with matrices of which the last one can't be quantized.
fn folder_with_nan(root: &Path) -> PathBuf {
    let folder = huggingface_folder(&root.join("nan"));
    let matrix = |last: f32| -> Vec<u8> {
        let values = (0..64 * 32).map(|i| if i == 64 * 32 - 1 { last } else { i as f32 });
        values.flat_map(f32::to_le_bytes).collect()
    };
    for (file, name, last) in
        [("model-1.safetensors", "a.weight", 1.0), ("model-2.safetensors", "b.weight", f32::NAN)]
    {
        let shard = raw_safetensors(&[(name, "F32", vec![64, 32], matrix(last))], 0);
        fs::write(folder.join(file), shard).unwrap();
    }
    let index =
        r#"{ "weight_map": { "a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors" } }"#;
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    folder
}

#[test]
fn an_import_that_fails_late_leaves_the_store_as_it_was() {
    let root = TempDir::new().unwrap();
    let store = full(root.path());
    let before = files_below(&root.path().join("store"));
    let unchanged = |what: &str| {
        let mut now = files_below(&root.path().join("store"));
        now.retain(|file| file != ".blobs.lock" && !file.starts_with("leases/"));
        let mut before = before.clone();
        before.retain(|file| file != ".blobs.lock" && !file.starts_with("leases/"));
        assert_eq!(now, before, "{what}");
        assert!(is_whole(&store.resolve("old").unwrap()), "{what}");
    };

    let options = ImportOptions { quantize: Quantization::new(4, 32) };
    let bad = store.import_with(&folder_with_nan(root.path()), None, &options, &mut silent);
    assert!(matches!(bad, Err(StoreError::BadSource { .. })), "{bad:?}");
    unchanged("bad weights");

    let new = distinct_source(root.path(), "new", 2);
    let mut last = 0;
    store
        .clone()
        .with_max_size(u64::MAX)
        .import(&new, None, &mut |event| {
            last += u64::from(matches!(event, ImportEvent::Advanced(_)));
            ControlFlow::Continue(())
        })
        .unwrap();
    store.remove("new", false, &mut silent).unwrap();
    for cancelled_at in 1..=last {
        let mut seen = 0;
        let cancelled = store.import(&new, None, &mut |event| {
            seen += u64::from(matches!(event, ImportEvent::Advanced(_)));
            if seen == cancelled_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(cancelled, Err(StoreError::Cancelled)), "{cancelled:?}");
        unchanged("cancelled");
    }

    // A folder of the store can't be written.
    for folder in ["refs", "artifacts"] {
        let (path, away) = (root.path().join("store").join(folder), root.path().join("away"));
        let (from, to) = (path.clone(), away.clone());
        let failing = store.clone().with_fs_op_hook(move |step| {
            if step.action == "move" && step.path.starts_with(&from) && !to.exists() {
                fs::rename(&from, &to).unwrap();
            } else if step.path.starts_with(&from)
                || step.path.starts_with(from.parent().unwrap().join("tmp"))
            {
                let _ = fs::rename(&to, &from);
            }
        });
        let failed = failing.import(&new, None, &mut silent);
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{folder}: {failed:?}");
        let _ = fs::rename(&away, &path);
        store.repair(false, &mut silent).unwrap();
        unchanged(folder);
    }
    let imported = store.import(&new, None, &mut silent).unwrap();
    assert_eq!(names(&imported.evicted), ["old"]);
}

#[test]
fn a_name_that_could_not_be_moved_stands_for_what_it_stood_for() {
    let root = TempDir::new().unwrap();
    let (store, old) = import_distinct(root.path(), "tiny", 1);
    let new = distinct_source(root.path(), "tiny", 2);
    let (refs, away) = (root.path().join("store/refs"), root.path().join("away"));
    let (from, to) = (refs.clone(), away.clone());
    // The name is in its place, and then its folder can't be synced, once.
    let failed_once = AtomicBool::new(false);
    let failing = store.clone().with_fs_op_hook(move |step| {
        if step.action == "sync" && step.path == from && !failed_once.swap(true, Ordering::Relaxed) {
            fs::rename(&from, &to).unwrap();
        } else if to.exists() {
            fs::rename(&to, &from).unwrap();
        }
    });
    let failed = failing.import(&new, None, &mut silent);
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    assert_eq!(store.refs().unwrap(), [("tiny".to_owned(), old.digest)]);
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(is_whole(&store.resolve("tiny").unwrap()));
}

#[test]
fn what_is_stored_already_takes_no_room() {
    let root = TempDir::new().unwrap();
    let store = three(root.path());
    store.pin("middle").unwrap();
    let tight = store.clone().with_max_size(store.usage().unwrap().total);
    let full = files_below(&root.path().join("store"));
    for (name, limit) in [("old", &tight), ("middle", &tight), ("old", &tight.clone().with_max_size(1))] {
        let again = limit.import(&root.path().join(format!("{name}.gguf")), None, &mut silent).unwrap();
        assert!(again.already_stored && again.evicted.is_empty(), "{name}: {again:?}");
    }
    assert_eq!(files_below(&root.path().join("store")), full);

    // The same for a folder that is quantized.
    let folder = huggingface_folder(&root.path().join("folder"));
    let matrix: Vec<u8> = (0..64 * 32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let shard = raw_safetensors(&[("a", "F32", vec![64, 32], matrix)], 0);
    fs::write(folder.join("model-1.safetensors"), &shard).unwrap();
    let matrix = raw_safetensors(&[("b.weight", "F32", vec![64, 32], vec![0; 64 * 32 * 4])], 0);
    fs::write(folder.join("model-2.safetensors"), matrix).unwrap();
    let index = r#"{ "weight_map": { "a": "model-1.safetensors", "b.weight": "model-2.safetensors" } }"#;
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    let options = ImportOptions { quantize: Quantization::new(4, 32) };
    store.import_with(&folder, None, &options, &mut silent).unwrap();
    let tight = store.clone().with_max_size(store.usage().unwrap().total);
    let again = tight.import_with(&folder, None, &options, &mut silent).unwrap();
    assert!(again.already_stored && again.evicted.is_empty() && again.new_bytes == 0, "{again:?}");
}

#[test]
fn a_shard_that_both_share_stays_when_the_older_one_goes() {
    let root = TempDir::new().unwrap();
    let shards = |folder: &str, own: f32| {
        let folder = huggingface_folder(&root.path().join(folder));
        fs::write(folder.join("model-1.safetensors"), safetensors(&[("a", vec![own; 50_000])])).unwrap();
        fs::write(folder.join("model-2.safetensors"), safetensors(&[("b", vec![5.0; 50_000])])).unwrap();
        folder
    };
    let (old, new) = (shards("old", 1.0), shards("new", 2.0));
    let store = open(root.path());
    let first = store.import(&old, None, &mut silent).unwrap();
    age(root.path(), first.digest, 1000);
    // Either fits, and both do not, though the shard counts once.
    let store = store.with_max_size(first.size + 100_000);
    let imported = store.import(&new, None, &mut silent).unwrap();
    assert_eq!(names(&imported.evicted), ["old"]);
    assert!(imported.new_bytes < imported.size * 6 / 10, "{imported:?}");
    assert!(is_whole(&store.resolve("new").unwrap()));
    assert!(store.repair(true, &mut silent).unwrap().actions.is_empty());
}

#[test]
fn what_goes_is_what_nobody_uses_when_it_goes() {
    let root = TempDir::new().unwrap();
    let store = three(root.path());
    let total = store.usage().unwrap().total;
    let new = distinct_source(root.path(), "new-one", 4);
    // Somebody begins to use the oldest one while the new one is converted.
    let mut held = None;
    let tight = store.clone().with_max_size(total);
    let imported = tight.import(&new, None, &mut |event| {
        if matches!(event, ImportEvent::Advanced(_)) && held.is_none() {
            held = Some(store.resolve("old").unwrap());
        }
        ControlFlow::Continue(())
    });
    assert_eq!(names(&imported.unwrap().evicted), ["middle"]);
    assert!(is_whole(&held.unwrap()));
}

#[test]
fn a_download_is_refused_that_could_never_be_imported() {
    let root = TempDir::new().unwrap();
    let (store, old) = import_distinct(root.path(), "old", 1);
    let store = store.with_max_size(old.size + 1000);
    store.check_room(5000, old.size).unwrap();
    assert!(matches!(store.check_room(1, old.size + 1001), Err(StoreError::OverLimit { .. })));
    store.pin("old").unwrap();
    store.check_room(5000, 1000).unwrap();
    let refused = store.check_room(1001, 1001);
    assert!(matches!(refused, Err(StoreError::OverLimit { held, .. }) if held == old.size), "{refused:?}");
    let refused = store.check_room(u64::MAX / 2, 1000);
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
}

#[test]
fn a_file_that_is_set_aside_while_it_is_reused_fails_the_import() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("folder"));
    let store = open(root.path());
    store.import(&folder, Some("first"), &mut silent).unwrap();
    fs::write(folder.join("model-2.safetensors"), safetensors(&[("b", vec![4.0; 5])])).unwrap();
    let first = store.resolve("first").unwrap();
    let shard = first.manifest.files.iter().find(|file| file.name == "model-1.safetensors").unwrap();
    let (path, away) = (first.blob_path(shard), root.path().join("away"));
    // The settings are copied after the shards have been found.
    let failed = store.import(&folder, Some("second"), &mut |event| {
        if matches!(event, ImportEvent::Advanced(_)) && !away.exists() {
            fs::rename(&path, &away).unwrap();
        }
        ControlFlow::Continue(())
    });
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(store.refs().unwrap().len(), 1);
    fs::rename(&away, &path).unwrap();
    store.import(&folder, Some("second"), &mut silent).unwrap();
    assert!(is_whole(&store.resolve("second").unwrap()));
}
