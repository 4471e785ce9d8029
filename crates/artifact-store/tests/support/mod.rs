//! Imports of small models, and what the store has of them.
#![allow(dead_code, unused_imports, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::{fs, ops::ControlFlow, path::Path};

use artifact_store::{Artifact, Dtype, Imported, Store, StoreError};
use tempfile::TempDir;
pub use test_support::{files::*, gguf::*, huggingface::*, safetensors::*};

/// Imports bytes as a GGUF file, under the name `tiny`, into a store in `folder`.
pub fn import_bytes(folder: &Path, bytes: &[u8]) -> Result<(Store, Imported), StoreError> {
    let source = folder.join("tiny.gguf");
    fs::write(&source, bytes).unwrap();
    let store = Store::open(folder.join("store"))?;
    let imported = store.import(&source, Some("tiny"), &mut |_| ControlFlow::Continue(()))?;
    Ok((store, imported))
}

pub fn import_gguf(gguf: &Gguf) -> (TempDir, Artifact) {
    let folder = TempDir::new().unwrap();
    let (store, _) = import_bytes(folder.path(), &gguf.bytes()).unwrap();
    let artifact = store.resolve("tiny").unwrap();
    (folder, artifact)
}

/// The bytes of a tensor with its type and shape, read through the manifest alone.
pub fn stored_tensor(artifact: &Artifact, name: &str) -> (Dtype, Vec<u64>, Vec<u8>) {
    let entry = artifact.manifest.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let file = &artifact.manifest.files[entry.file];
    artifact.open_blob(file).unwrap();
    let bytes = fs::read(artifact.blob_path(file)).unwrap();
    let range = entry.offset as usize..(entry.offset + entry.len) as usize;
    (entry.dtype, entry.shape.clone(), bytes[range].to_vec())
}

/// A file of `tests/vectors`.
pub fn vectors(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
