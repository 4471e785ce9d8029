//! Ten processes at work on one store.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/stores.rs"]
mod stores;
mod support;

use std::{
    fs::{self, File},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use artifact_store::{ArtifactState, Digest, PruneOptions, Store, StoreError, VerifyOptions};
use stores::{distinct_source, import, is_whole, open, silent, this_binary};
use tempfile::TempDir;

const ROOT: &str = "STORE_CROWD_ROOT";
const ROLE: &str = "STORE_CROWD_ROLE";
/// How often each does its work.
const ROUNDS: usize = 40;
const ROLES: [&str; 10] =
    ["same", "same", "first", "second", "prune", "hold", "verify", "manage", "evict", "download"];

/// An artifact that was pruned a moment ago is no failure.
fn unless_gone<T>(result: Result<T, StoreError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(StoreError::UnknownArtifact { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn work(role: &str, store: &Store, root: &Path) {
    match role {
        "prune" => {
            let everything = PruneOptions { max_size: Some(0), ..PruneOptions::default() };
            store.prune(&everything, &mut silent).unwrap();
        }
        "hold" => {
            for (name, _) in store.refs().unwrap() {
                // Whoever gets hold of an artifact has all of it, for as long as it likes.
                if let Some(artifact) = unless_gone(store.resolve(&name)) {
                    artifact.record_use().unwrap();
                    assert!(is_whole(&artifact) && is_whole(&artifact), "{name}");
                    artifact.read_tokenizer().unwrap();
                }
            }
        }
        // About a model: each import has to evict what it finds, but for what it reuses.
        "evict" => {
            let source = root.join("same.gguf");
            let limit = source.metadata().unwrap().len();
            match store.clone().with_max_size(limit).import(&source, Some("evicting"), &mut silent) {
                // What others use at this moment may leave too little room.
                Err(StoreError::OverLimit { .. }) => {}
                imported => drop(imported.unwrap()),
            }
        }
        // A pull that finds files in the store, and imports only later.
        "download" => {
            let mut hold = store.hold_blobs().unwrap();
            let digests: Vec<_> = store.list().unwrap().into_iter().map(|it| it.digest.to_string()).collect();
            let artifacts = digests.iter().filter_map(|digest| unless_gone(store.resolve(digest)));
            let files: Vec<_> = artifacts.flat_map(|artifact| artifact.manifest.files.clone()).collect();
            let held: Vec<_> = files
                .iter()
                .filter_map(|file| Some((hold.add(file.blob, file.size).unwrap()?, file)))
                .collect();
            let everything = PruneOptions { max_size: Some(0), ..PruneOptions::default() };
            store.prune(&everything, &mut silent).unwrap();
            for (path, file) in held {
                assert_eq!(Digest::of(&fs::read(&path).unwrap()), file.blob, "{}", file.name);
            }
        }
        "verify" => {
            let listed = store.list().unwrap();
            let names = listed.iter().map(|artifact| artifact.digest.to_string());
            let artifacts: Vec<_> = names.filter_map(|name| unless_gone(store.resolve(&name))).collect();
            let options = VerifyOptions::all_cores();
            let verified = store.verify(&artifacts, &options, &|_| ControlFlow::Continue(())).unwrap();
            assert!(verified.iter().all(|artifact| artifact.failed.is_empty()), "{verified:?}");
        }
        "manage" => {
            store.usage().unwrap();
            store.repair(true, &mut silent).unwrap();
            for artifact in store.list().unwrap() {
                store.holders(artifact.digest).unwrap();
                let name = artifact.digest.to_string();
                unless_gone(store.pin(&name));
                unless_gone(store.unpin(&name));
            }
            match store.remove("first", false, &mut silent) {
                Err(StoreError::UnknownArtifact { .. } | StoreError::InUse { .. }) => {}
                result => drop(result.unwrap()),
            }
            store.repair(false, &mut silent).unwrap();
        }
        model => {
            let imported = store.import(&root.join(format!("{model}.gguf")), None, &mut silent).unwrap();
            if let Some(artifact) = unless_gone(store.resolve(&imported.digest.to_string())) {
                assert!(is_whole(&artifact), "{model}");
            }
        }
    }
}

/// One of the processes; they begin when the parent lets go of the gate.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let role = std::env::var(ROLE).unwrap();
    let store = open(&root);
    File::open(root.join("gate")).unwrap().lock_shared().unwrap();
    (0..ROUNDS).for_each(|_| work(&role, &store, &root));
}

#[test]
fn importers_pruners_holders_and_verifiers_work_at_once() {
    let root = TempDir::new().unwrap();
    for (name, byte) in [("same", 1), ("first", 2), ("second", 3)] {
        distinct_source(root.path(), name, byte);
    }
    let (store, held) = import(root.path(), "held");
    let held = store.resolve(&held.digest.to_string()).unwrap();
    let gate = File::create(root.path().join("gate")).unwrap();
    gate.lock().unwrap();
    let start = |role: &&str| -> Child {
        let mut command = this_binary("child");
        command.env(ROOT, root.path()).env(ROLE, role).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<Child> = ROLES.iter().map(start).collect();
    drop(gate);
    for (role, child) in ROLES.iter().zip(children) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stdout));
    }

    // What was in use all the time is there, and the rest is as if they had taken turns.
    assert!(is_whole(&held));
    store.repair(false, &mut silent).unwrap();
    let again = store.repair(true, &mut silent).unwrap();
    assert!(again.actions.is_empty() && again.problems.is_empty(), "{again:?}");
    for artifact in store.list().unwrap() {
        assert_eq!(artifact.state, ArtifactState::Ready);
        assert!(is_whole(&store.resolve(&artifact.digest.to_string()).unwrap()));
    }
    assert!(fs::read_dir(root.path().join("store/tmp")).unwrap().next().is_none());
}
