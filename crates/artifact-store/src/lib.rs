//! Content-addressed store of models.
//!
//! ```text
//! <store>/index.json              sizes and last use; rebuilt from the manifests when lost
//!         blobs/sha256/ab/<hex>   immutable files, named by their SHA-256, shared between artifacts
//!         artifacts/<hex>.json    manifests, named by their SHA-256
//!         refs/<name>             a human name -> the digest of a manifest
//!         leases/<hex>            locked by who uses an artifact; modified when it was last used
//!         tmp/  .lock             work in progress; one writer at a time
//! ```
//!
//! Importing writes under `tmp/`, syncs, and renames: blobs first, then the
//! manifest, then the name. So whatever a reader can find is complete, and what
//! a crash leaves behind is found by nobody and removed by the next writer.
//!
//! Synchronous, no network, no MLX.

mod artifact;
mod digest;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gguf;
mod import;
mod index;
mod layout;
mod lease;
mod manifest;
mod observer;
mod prune;
mod store;
mod weights;
mod writer;

pub use artifact::Artifact;
pub use digest::{Digest, ParseDigestError};
pub use error::StoreError;
pub use import::ImportOptions;
pub use index::Listed;
pub use layout::default_store_dir;
pub use manifest::{
    FileEntry, FileRole, Manifest, Quantization, Source, SourceFormat, TensorEntry, Transform,
};
pub use observer::{CommitStep, ImportEvent, Observer};
pub use prune::PruneReport;
pub use safetensors::Dtype;
pub use store::Store;
pub use writer::Imported;
