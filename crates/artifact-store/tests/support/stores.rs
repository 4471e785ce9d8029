//! Small stores, made on the spot, and processes that work on them.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::{
    fs::{self, File, Permissions},
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use artifact_store::{Artifact, Digest, ImportEvent, Imported, Store, VerifyOptions};

use crate::support::{Gguf, text, tiny_llama};

pub fn silent(_: ImportEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn open(root: &Path) -> Store {
    Store::open(root.join("store")).unwrap()
}

/// Writes a GGUF file and imports it under `name`; another `name` is another artifact.
pub fn import(root: &Path, name: &str) -> (Store, Imported) {
    let source = source(root, name);
    let store = open(root);
    let imported = store.import(&source, Some(name), &mut silent).unwrap();
    (store, imported)
}

/// The artifacts share their weights and differ in their configuration.
pub fn source(root: &Path, name: &str) -> PathBuf {
    let mut gguf: Gguf = tiny_llama();
    gguf.set("tokenizer.chat_template", text(name));
    gguf.write(&root.join(format!("{name}.gguf")))
}

/// The same with weights of its own.
pub fn distinct_source(root: &Path, name: &str, byte: u8) -> PathBuf {
    let mut gguf = tiny_llama();
    gguf.tensors[1].data[0] = byte;
    gguf.set("tokenizer.chat_template", text(name));
    gguf.write(&root.join(format!("{name}.gguf")))
}

pub fn import_distinct(root: &Path, name: &str, byte: u8) -> (Store, Imported) {
    let source = distinct_source(root, name, byte);
    let store = open(root);
    let imported = store.import(&source, Some(name), &mut silent).unwrap();
    (store, imported)
}

/// Makes the last use of an artifact so many seconds ago.
pub fn age(root: &Path, digest: Digest, seconds: u64) {
    let lease = File::options().write(true).open(root.join(format!("store/leases/{digest}"))).unwrap();
    lease.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

/// Changes a stored file behind the store's back.
pub fn spoil(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The path of the weights of a GGUF import.
pub fn weights_of(artifact: &Artifact) -> PathBuf {
    artifact.blob_path(&artifact.manifest.files[0])
}

/// Reads every byte of an artifact.
pub fn is_whole(artifact: &Artifact) -> bool {
    let options = VerifyOptions { quarantine: false, ..VerifyOptions::all_cores() };
    let verified = artifact.verify(&options, &|_| ControlFlow::Continue(())).unwrap();
    let opens = artifact.manifest.files.iter().all(|file| artifact.open_blob(file).is_ok());
    verified.failed.is_empty() && opens
}

/// This test binary again, running one of its tests alone.
pub fn this_binary(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--quiet", "--nocapture"]);
    command
}
