//! How large a model is.

use artifact_store::Manifest;
use protocol::memory::StoredSize;

use super::{
    arch,
    config::{Settings, kv_token_values},
};

/// What a model takes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSize {
    /// Bytes of the weights, as stored.
    pub weight_bytes: u64,
    /// Bytes of a token's keys and values, in all layers.
    pub kv_token_bytes: u64,
    /// The most tokens a sequence can have.
    pub context_length: u32,
}

/// The size, before anything is loaded, of the model that the manifest describes. Weights that have no effect count as well.
pub fn stored_size(manifest: &Manifest) -> StoredSize {
    let weight_bytes = manifest.tensors.iter().fold(0, |all: u64, tensor| all.saturating_add(tensor.len));
    // What is wrong with the configuration is said when the model is loaded.
    let defaults = arch::find(manifest.architecture()).map_or(&[][..], |entry| entry.defaults);
    let settings = Settings::new(&manifest.config).and_then(|all| all.with_defaults(defaults).of_text());
    let kv_token_values = settings.as_ref().map_or(Ok(0), |settings| kv_token_values(*settings)).unwrap_or(0);
    let context =
        |settings: &Settings<'_>| settings.whole("max_position_embeddings", 1, i32::MAX).ok().flatten();
    let context_length = settings.as_ref().ok().and_then(context).map_or(0, i32::unsigned_abs);
    StoredSize { weight_bytes, kv_token_values, context_length }
}
