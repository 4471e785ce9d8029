//! How large a model is.

use artifact_store::Manifest;
use protocol::memory::StoredSize;

use super::config::{Settings, kv_token_values};

/// What a model takes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSize {
    /// Bytes of the weights, as they are computed with.
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
    let kv_token_values = Settings::new(&manifest.config).and_then(kv_token_values).unwrap_or(0);
    let context = manifest.config.get("max_position_embeddings").and_then(serde_json::Value::as_u64);
    let context_length = context.and_then(|length| length.try_into().ok()).unwrap_or(0);
    StoredSize { weight_bytes, kv_token_values, context_length }
}
