//! How large a model is.

use artifact_store::Manifest;
use protocol::memory::StoredSize;

use super::{
    EmbeddingModel, arch,
    config::{Settings, kv_token_values},
};

/// What a model takes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSize {
    /// Bytes of the weights as they are stored, which all workers map.
    pub weight_bytes: u64,
    /// Bytes of weights that each worker has for itself: copied, or in another form than they are stored in.
    pub private_bytes: u64,
    /// Bytes of a token's keys and values, in all layers.
    pub kv_token_bytes: u64,
    /// Bytes of what layers keep of a sequence beside keys and values; 0 if they keep nothing.
    pub state_bytes: u64,
    /// The most tokens a sequence can have.
    pub context_length: u32,
}

impl ModelSize {
    /// That of a model and the one that drafts tokens for it, which holds as many.
    #[must_use]
    pub fn and_draft(self, draft: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes.saturating_add(draft.weight_bytes),
            private_bytes: self.private_bytes.saturating_add(draft.private_bytes),
            kv_token_bytes: self.kv_token_bytes.saturating_add(draft.kv_token_bytes),
            state_bytes: self.state_bytes.saturating_add(draft.state_bytes),
            ..self
        }
    }

    /// Of the bytes of keys and values of this model and of `other` those that this one gets, so that both hold as many
    /// tokens.
    pub fn share(&self, kv_bytes: u64, other: &Self) -> u64 {
        let (own, all) =
            (u128::from(self.kv_token_bytes), self.kv_token_bytes.saturating_add(other.kv_token_bytes));
        let share = u128::from(kv_bytes) * own / u128::from(all.max(1));
        share.try_into().unwrap_or(kv_bytes)
    }
}

/// The size, before anything is loaded, of the model that the manifest describes. Weights that have no effect count as well.
pub fn stored_size(manifest: &Manifest) -> StoredSize {
    let weight_bytes = manifest.tensors.iter().fold(0, |all: u64, tensor| all.saturating_add(tensor.len));
    // What is wrong with the configuration is said when the model is loaded.
    let defaults = arch::find(manifest.architecture()).map_or(&[][..], |entry| entry.defaults);
    let settings = Settings::new(&manifest.config).and_then(|all| all.with_defaults(defaults).of_text());
    let kv_token_values = settings.as_ref().map_or(Ok(0), |settings| kv_token_values(*settings)).unwrap_or(0);
    // An encoder remembers nothing of a text.
    let kv_token_values = if EmbeddingModel::is_one(manifest) { 0 } else { kv_token_values };
    let context =
        |settings: &Settings<'_>| settings.whole("max_position_embeddings", 1, i32::MAX).ok().flatten();
    let context_length = settings.as_ref().ok().and_then(context).map_or(0, i32::unsigned_abs);
    let most = manifest.embedding.as_ref().and_then(|embedding| embedding.max_tokens);
    let context_length = most.map_or(context_length, |most| most.min(context_length));
    StoredSize { weight_bytes, kv_token_values, context_length }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_hold_as_many_tokens(own in 1..1_u64 << 30, other in 1..1_u64 << 30, bytes in 0..1_u64 << 50) {
            let size = |kv_token_bytes| ModelSize {
                weight_bytes: 1,
                private_bytes: 0,
                kv_token_bytes,
                state_bytes: 0,
                context_length: 1,
            };
            let share = size(own).share(bytes, &size(other));
            prop_assert!(share <= bytes);
            prop_assert!((share / own).abs_diff((bytes - share) / other) <= 1);
        }
    }
}
