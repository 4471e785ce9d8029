//! Killing a process between any two changes on the disk.
//!
//! Each scenario runs in a process of its own, which kills itself before its
//! first change, before its second, and so on until it survives. After each
//! death the store opens, what was stored is intact, the next command leaves
//! nothing of the interrupted one, and doing it again ends where it would
//! have ended without the death. `--nocapture` prints the steps.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "support/stores.rs"]
mod stores;
mod support;

use std::{
    fs,
    io::Write,
    ops::ControlFlow,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use artifact_store::{ArtifactState, PruneOptions, Store, StoreError, VerifyOptions};
use rustix::process::{Signal, getpid, kill_process};
use stores::{
    age, distinct_source, import, import_distinct, is_whole, open, silent, spoil, this_binary, weights_of,
};
use support::{files_below, huggingface_folder, safetensors};
use tempfile::TempDir;

const ROOT: &str = "STORE_CRASH_ROOT";
const SCENARIO: &str = "STORE_CRASH_SCENARIO";
/// Before which change the process dies; without it, it survives.
const DIES_AT: &str = "STORE_CRASH_AT";

/// What is interrupted, and from which store it starts.
struct Scenario {
    name: &'static str,
    prepare: fn(&Path),
    act: fn(&Store, &Path) -> Result<(), StoreError>,
}

const SCENARIOS: [Scenario; 12] = [
    Scenario { name: "import", prepare: |_| (), act: import_tiny },
    Scenario { name: "import under a name that exists", prepare: tiny_of_old, act: import_tiny },
    Scenario { name: "import that evicts", prepare: full_store, act: import_tiny },
    Scenario {
        name: "import that evicts what it shares a file with",
        prepare: full_of_shared,
        act: import_sharing,
    },
    Scenario {
        name: "remove",
        prepare: pinned_tiny,
        act: |store, _| store.remove("tiny", true, &mut silent).map(drop),
    },
    Scenario {
        name: "remove one of two names",
        prepare: two_names,
        act: |store, _| store.remove("tiny", false, &mut silent).map(drop),
    },
    Scenario { name: "prune", prepare: three_old, act: prune_all },
    Scenario { name: "pin", prepare: tiny, act: |store, _| store.pin("tiny").map(drop) },
    Scenario { name: "unpin", prepare: pinned_tiny, act: |store, _| store.unpin("tiny").map(drop) },
    Scenario { name: "quarantine", prepare: spoiled_tiny, act: verify_tiny },
    Scenario { name: "mend by importing", prepare: quarantined_tiny, act: import_tiny },
    Scenario { name: "repair", prepare: mess, act: |store, _| store.repair(false, &mut silent).map(drop) },
];

fn import_tiny(store: &Store, root: &Path) -> Result<(), StoreError> {
    let limit = fs::read_to_string(root.join("limit")).map_or(u64::MAX, |text| text.parse().unwrap());
    store.clone().with_max_size(limit).import(&root.join("tiny.gguf"), None, &mut silent).map(drop)
}

fn import_sharing(store: &Store, root: &Path) -> Result<(), StoreError> {
    let limit = fs::read_to_string(root.join("limit")).unwrap().parse().unwrap();
    store.clone().with_max_size(limit).import(&root.join("folder"), Some("tiny"), &mut silent).map(drop)
}

fn prune_all(store: &Store, _: &Path) -> Result<(), StoreError> {
    store.prune(&PruneOptions { max_size: Some(0), ..PruneOptions::default() }, &mut silent).map(drop)
}

fn verify_tiny(store: &Store, _: &Path) -> Result<(), StoreError> {
    let observer = |_| ControlFlow::Continue(());
    store.resolve("tiny")?.verify(&VerifyOptions::all_cores(), &observer).map(drop)
}

fn tiny(root: &Path) {
    open(root).import(&root.join("tiny.gguf"), None, &mut silent).unwrap();
}

fn tiny_of_old(root: &Path) {
    import_distinct(root, "tiny", 7);
    distinct_source(root, "tiny", 1);
}

fn full_store(root: &Path) {
    let (store, old) = import_distinct(root, "old", 5);
    age(root, old.digest, 5000);
    fs::write(root.join("limit"), store.usage().unwrap().total.to_string()).unwrap();
}

/// Two folders with a shard in common; the first one is stored under two names, of which the second one takes one.
fn full_of_shared(root: &Path) {
    let folder = huggingface_folder(&root.join("folder"));
    let store = open(root);
    let old = store.import(&folder, Some("old"), &mut silent).unwrap();
    store.import(&folder, Some("tiny"), &mut silent).unwrap();
    age(root, old.digest, 5000);
    fs::write(root.join("limit"), store.usage().unwrap().total.to_string()).unwrap();
    fs::write(folder.join("model-2.safetensors"), safetensors(&[("b", vec![4.0; 5])])).unwrap();
}

fn pinned_tiny(root: &Path) {
    tiny(root);
    open(root).pin("tiny").unwrap();
}

fn two_names(root: &Path) {
    tiny(root);
    open(root).import(&root.join("tiny.gguf"), Some("second"), &mut silent).unwrap();
}

fn three_old(root: &Path) {
    import_distinct(root, "one", 5);
    import(root, "two");
    import(root, "sharing-with-two");
}

fn spoiled_tiny(root: &Path) {
    tiny(root);
    spoil(&weights_of(&open(root).resolve("tiny").unwrap()), |bytes| *bytes.last_mut().unwrap() ^= 1);
}

fn quarantined_tiny(root: &Path) {
    spoiled_tiny(root);
    verify_tiny(&open(root), root).unwrap();
}

/// Something of everything that a repair puts right.
fn mess(root: &Path) {
    tiny(root);
    let (store, wrongly) = import_distinct(root, "wrongly", 6);
    let (_, gone) = import_distinct(root, "gone", 5);
    store.pin("gone").unwrap();
    // From here on by hand: an import would put it right.
    let path = |name: &str| root.join("store").join(name);
    fs::remove_file(path(&format!("artifacts/{}.json", gone.digest))).unwrap();
    fs::write(path("tmp/half"), "half").unwrap();
    fs::create_dir(path("tmp/folder")).unwrap();
    fs::write(path("tmp/folder/file"), "half").unwrap();
    fs::write(path("tmp/name-finished"), wrongly.digest.to_string()).unwrap();
    fs::write(path("refs/torn"), "01").unwrap();
    spoil(&path("index.json"), |bytes| bytes.truncate(10));
    // A blob in quarantine that is good.
    let artifact = store.resolve("wrongly").unwrap();
    let weights = artifact.manifest.files[0].blob;
    fs::create_dir(path("quarantine")).unwrap();
    fs::rename(weights_of(&artifact), path(&format!("quarantine/{weights}"))).unwrap();
}

/// A store with a pinned artifact that no scenario may touch, and the source to import.
fn prepare(scenario: &Scenario) -> TempDir {
    let root = TempDir::new().unwrap();
    let (store, _) = import_distinct(root.path(), "bystander", 9);
    store.pin("bystander").unwrap();
    distinct_source(root.path(), "tiny", 1);
    (scenario.prepare)(root.path());
    root
}

/// The process that dies.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let wanted = std::env::var(SCENARIO).unwrap();
    let dies_at: Option<usize> = std::env::var(DIES_AT).ok().map(|step| step.parse().unwrap());
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == wanted).unwrap();
    let (steps, store_dir) = (AtomicUsize::new(0), root.join("store"));
    let log = fs::File::create(root.join("steps")).unwrap();
    let store = open(&root).with_fs_op_hook(move |step| {
        if Some(steps.fetch_add(1, Ordering::Relaxed)) == dies_at {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
        let path = step.path.strip_prefix(&store_dir).unwrap();
        writeln!(&log, "{} {}", step.action, shortened(path)).unwrap();
    });
    (scenario.act)(&store, &root).unwrap();
}

/// A path for people: digests and random names are cut.
fn shortened(path: &Path) -> String {
    let parts = path.iter().map(|part| part.to_string_lossy());
    let parts =
        parts.map(|part| if part.len() > 24 { format!("{}…", &part[..8]) } else { part.into_owned() });
    parts.collect::<Vec<_>>().join("/")
}

/// Runs the scenario; `false` if it died.
fn survives(scenario: &Scenario, root: &Path, dies_at: Option<usize>) -> bool {
    let mut command = this_binary("child");
    command.env(ROOT, root).env(SCENARIO, scenario.name);
    if let Some(step) = dies_at {
        command.env(DIES_AT, step.to_string());
    }
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(Signal::KILL.as_raw());
    assert!(killed || output.status.success(), "{}: {output:?}", scenario.name);
    !killed
}

/// Every file of the store but those that say when and by whom.
fn content(root: &Path) -> Vec<String> {
    let mut files = files_below(&root.join("store"));
    files.retain(|file| !file.starts_with("leases/") && file != ".lock" && file != "index.json");
    files
}

/// What must hold at any moment.
fn check_what_was_stored(root: &Path, when: &str) {
    let store = open(root);
    assert!(is_whole(&store.resolve("bystander").unwrap()), "{when}");
    for (name, _) in store.refs().unwrap() {
        assert!(store.resolve(&name).is_ok(), "{when}: `{name}` leads to nothing");
    }
    let listed = store.list().unwrap();
    for artifact in listed.iter().filter(|artifact| artifact.state == ArtifactState::Ready) {
        let resolved = store.resolve(&artifact.digest.to_string()).unwrap();
        let spoiled = when.starts_with("quarantine") && artifact.names.contains(&"tiny".to_owned());
        assert!(spoiled || is_whole(&resolved), "{when}: {artifact:?}");
    }
    let names = |name: &str| listed.iter().any(|artifact| artifact.names.contains(&name.to_owned()));
    if when.starts_with("import that evicts") {
        assert!(names("old") || names("tiny"), "{when}: the old one went before the new one was there");
    }
    if !when.starts_with("import under") && !when.starts_with("remove") && !when.starts_with("prune") {
        assert!(names("tiny") || when.starts_with("import"), "{when}: an artifact was lost");
    }
}

/// What the next command must have put right.
fn check_nothing_is_left(root: &Path, when: &str) {
    let store = open(root);
    store.repair(false, &mut silent).unwrap();
    let again = store.repair(true, &mut silent).unwrap();
    assert!(again.actions.is_empty(), "{when}: {:?}", again.actions);
    let usage = store.usage().unwrap();
    assert_eq!(usage.unfinished, 0, "{when}");
    assert!(files_below(&root.join("store/tmp")).is_empty(), "{when}");
}

#[test]
fn a_kill_between_any_two_steps_loses_nothing() {
    let mut total = 0;
    for scenario in &SCENARIOS {
        let reference = prepare(scenario);
        assert!(survives(scenario, reference.path(), None));
        let steps = fs::read_to_string(reference.path().join("steps")).unwrap();
        let expected = content(reference.path());
        println!("{}: {} steps", scenario.name, steps.lines().count());
        steps.lines().enumerate().for_each(|(step, line)| println!("  {step:2} {line}"));

        for step in 0..steps.lines().count() {
            let root = prepare(scenario);
            let when = format!("{}, killed before step {step}", scenario.name);
            assert!(!survives(scenario, root.path(), Some(step)), "{when}: it was not");
            check_what_was_stored(root.path(), &when);
            check_nothing_is_left(root.path(), &when);
            check_what_was_stored(root.path(), &when);
            match (scenario.act)(&open(root.path()), root.path()) {
                // What was to be removed is gone already.
                Err(StoreError::UnknownArtifact { .. }) if scenario.name.starts_with("remove") => {}
                result => result.unwrap(),
            }
            check_nothing_is_left(root.path(), &when);
            assert_eq!(content(root.path()), expected, "{when}");
            total += 1;
        }
        assert!(!steps.is_empty(), "{} changes nothing", scenario.name);
    }
    println!("{total} kills in {} scenarios", SCENARIOS.len());
}
