//! Content-addressed store of models.
//!
//! ```text
//! <store>/index.json              sizes and last use; rebuilt from the manifests when lost
//!         blobs/sha256/ab/<hex>   immutable files, named by their SHA-256, shared between artifacts
//!         artifacts/<hex>.json    manifests, named by their SHA-256
//!         refs/<name>             a human name -> the digest of a manifest
//!         leases/<hex>            locked by who uses an artifact; modified when it was last used
//!         holds/<random>          locked by who uses blobs without an artifact, such as a download
//!         pins/<hex>              artifacts that the user wants kept
//!         quarantine/<hex>        blobs that failed their verification
//!         tmp/  .lock             work in progress; one writer at a time
//!         .blobs.lock             locked while blobs are placed, set aside or removed
//! ```
//!
//! An artifact exists from the moment its manifest has its place until the
//! moment it is removed. Importing writes under `tmp/`, syncs, and renames:
//! blobs first, then the manifest, then the name; only then artifacts go that
//! have to make room for it. Removing takes the manifest first, then names and
//! blobs. So whatever a reader can find is complete, and
//! what a crash leaves behind is found by nobody, and finished or undone by
//! the next writer.
//!
//! Synchronous, no network, no MLX.

mod artifact;
mod background_sync;
mod digest;
mod disk;
mod error;
mod evict;
mod export;
mod files;
mod fsync;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gguf;
mod hold;
mod holders;
mod import;
mod index;
mod inventory;
mod layout;
mod lease;
mod lock;
mod manifest;
mod observer;
mod packing;
mod pin;
mod printable;
mod private;
mod prune;
pub mod python_json;
mod quantization;
mod quarantine;
mod recover;
mod remove;
mod repair;
mod room;
mod store;
mod usage;
mod verify;
mod weights;
mod writer;

pub use artifact::Artifact;
pub use digest::{Digest, ParseDigestError};
pub use disk::FsOp;
pub use error::{StoreError, with_causes};
pub use export::Exported;
pub use hold::BlobHold;
pub use holders::Holder;
pub use import::{ImportOptions, check_config_file};
pub use index::{ArtifactState, ArtifactSummary};
pub use layout::default_store_dir;
pub use manifest::{
    DenseActivation, DenseModule, EmbeddingConfig, FileEntry, FileRole, Manifest, Pooling, Source,
    SourceFormat, TensorEntry, Transform,
};
pub use observer::{ImportEvent, Observer};
pub use packing::Packing;
pub use printable::printable;
pub use prune::{PruneOptions, PruneReport};
pub use quantization::{Quantization, UnknownQuantization};
pub use quarantine::BlobDefect;
pub use recover::RepairAction;
pub use remove::Removed;
pub use repair::{Problem, RepairReport};
pub use safetensors::Dtype;
pub use store::{DEFAULT_MAX_SIZE, Store};
pub use usage::{ArtifactUsage, Usage};
pub use verify::{BackgroundVerify, FailedBlob, Verified, VerifyEvent, VerifyObserver, VerifyOptions};
pub use writer::Imported;
