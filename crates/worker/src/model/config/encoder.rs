//! What the configuration of an encoder says, checked like that of a decoder.

use protocol::message::MAX_EMBEDDING_SIZE;

use super::{MAX_CONTEXT, MAX_HEADS, MAX_INNER, MAX_LAYERS, MAX_VOCAB, ModelError, Settings};
use crate::backend::Heads;

/// Most kinds of segments that tokens are of.
const MAX_TYPES: i32 = 1 << 10;

/// The configuration of an encoder of BERT's kind, with Hugging Face's names.
#[derive(Debug, Clone)]
pub(in crate::model) struct EncoderConfig {
    pub(in crate::model) hidden_size: i32,
    pub(in crate::model) num_hidden_layers: i32,
    pub(in crate::model) intermediate_size: i32,
    pub(in crate::model) heads: Heads,
    pub(in crate::model) vocab_size: i32,
    /// Kinds of segments; an embedded text is of the first.
    pub(in crate::model) type_vocab_size: i32,
    pub(in crate::model) layer_norm_eps: f32,
    /// Rows of the table of positions.
    pub(in crate::model) max_position_embeddings: i32,
    pub(in crate::model) pad_token_id: i32,
}

/// Settings that change what is computed, and the only value that is covered.
const FIXED: [(&str, &str); 2] = [("position_embedding_type", "absolute"), ("hidden_act", "gelu")];

/// Flags that have to be off.
const OFF: [&str; 2] = ["is_decoder", "add_cross_attention"];

impl EncoderConfig {
    /// # Errors
    /// A setting is missing, is of the wrong type, or has a value that is not covered.
    pub(in crate::model) fn parse(config: Settings<'_>) -> Result<Self, ModelError> {
        let size = |name: &'static str, most: i32| {
            config.whole(name, 1, most)?.ok_or(ModelError::MissingSetting { setting: name })
        };
        for (name, value) in FIXED {
            if let Some(other) = config.text(name)?.filter(|found| *found != value) {
                return config.refuse(name, other);
            }
        }
        for name in OFF {
            if config.flag(name)? == Some(true) {
                return config.refuse(name, true);
            }
        }
        let hidden_size = size("hidden_size", MAX_EMBEDDING_SIZE as i32)?;
        let queries = size("num_attention_heads", MAX_HEADS)?;
        if hidden_size % queries != 0 {
            return config.refuse("num_attention_heads", queries);
        }
        Ok(Self {
            hidden_size,
            num_hidden_layers: size("num_hidden_layers", MAX_LAYERS)?,
            intermediate_size: size("intermediate_size", MAX_INNER)?,
            heads: Heads { queries, kv: queries, dim: hidden_size / queries },
            vocab_size: size("vocab_size", MAX_VOCAB)?,
            type_vocab_size: config.whole("type_vocab_size", 1, MAX_TYPES)?.unwrap_or(2),
            layer_norm_eps: config.number("layer_norm_eps", 0.0, 1.0)?.unwrap_or(1e-12) as f32,
            max_position_embeddings: size("max_position_embeddings", MAX_CONTEXT)?,
            pad_token_id: config.whole("pad_token_id", 0, MAX_VOCAB)?.unwrap_or(0),
        })
    }
}
