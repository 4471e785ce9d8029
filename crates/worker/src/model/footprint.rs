//! What a model takes of memory, as far as its manifest says, before anything is loaded.

use artifact_store::Manifest;

use super::config::{Settings, kv_token_values};

/// What a stored model would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of the weights, with those that have no effect.
    pub weight_bytes: u64,
    /// Numbers that a token's keys and values are made of, in all layers; `None` if the configuration does not say it in
    /// a way that is known here.
    pub kv_token_values: Option<u64>,
}

impl Footprint {
    /// That of the model that the manifest describes.
    pub fn of(manifest: &Manifest) -> Self {
        let weight_bytes = manifest.tensors.iter().fold(0, |all: u64, tensor| all.saturating_add(tensor.len));
        let values = Settings::new(&manifest.config).and_then(kv_token_values);
        Self { weight_bytes, kv_token_values: values.ok() }
    }
}
