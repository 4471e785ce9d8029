//! What an artifact store has, as the worker program lists it for the gateway (`kr-worker --list-models`): a JSON array
//! on standard output. The gateway itself opens no store.

use serde::{Deserialize, Serialize};

use crate::{memory::StoredSize, message::Failure};

/// One name of a stored model, or a stored model that has no name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredModel {
    /// Its name; `None`: only the digest names it.
    pub name: Option<String>,
    /// SHA-256 of its manifest, in hex.
    pub digest: String,
    /// `model_type` of its configuration.
    pub architecture: Option<String>,
    /// Of an adapter the digest of the model that it adapts; a model has none.
    pub base: Option<String>,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its weights, which a worker maps; 0 if they are not known.
    pub weight_bytes: u64,
    /// Numbers that a token's keys and values are made of, in all layers; 0 if they are not known.
    pub kv_token_values: u64,
    /// Most tokens of a sequence, as its configuration says.
    pub context_length: Option<u32>,
    /// Whether it embeds text, instead of generating it.
    pub embeds: bool,
    /// Whether there are adapters of it in the store.
    pub has_adapters: bool,
    /// When it was imported, in Unix seconds.
    pub imported_at: u64,
    /// Why it can't be loaded, as far as that is known without trying.
    pub defect: Option<Failure>,
}

impl StoredModel {
    /// How large it is, as far as that is known.
    pub fn stored_size(&self) -> StoredSize {
        let &Self { weight_bytes, kv_token_values, context_length, .. } = self;
        StoredSize { weight_bytes, kv_token_values, context_length: context_length.unwrap_or(0) }
    }

    /// What it is loaded by: its name if it has one.
    pub fn id(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.digest)
    }
}
