//! What the configuration of ModernBERT says.

use protocol::message::MAX_EMBEDDING_SIZE;

use super::{
    FULL_ATTENTION, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_INNER, MAX_LAYERS, MAX_VOCAB, ModelError,
    RopeConfig, Settings, WindowRule, windows,
};
use crate::backend::Heads;

/// Rotary parameters of layers that see all tokens, and of those with a window: their kind and the setting of their base.
const ROPES: [(&str, &str); 2] =
    [(FULL_ATTENTION.0, "global_rope_theta"), ("sliding_attention", "local_rope_theta")];

/// The configuration of an encoder of ModernBERT's kind, with Hugging Face's names.
#[derive(Debug, Clone)]
pub(in crate::model) struct ModernEncoderConfig {
    pub(in crate::model) hidden_size: i32,
    pub(in crate::model) intermediate_size: i32,
    pub(in crate::model) heads: Heads,
    pub(in crate::model) vocab_size: i32,
    pub(in crate::model) norm_eps: f32,
    pub(in crate::model) norm_bias: bool,
    pub(in crate::model) attention_bias: bool,
    pub(in crate::model) mlp_bias: bool,
    pub(in crate::model) max_position_embeddings: i32,
    /// Of each layer, as an exclusive distance to either side; `None`: it sees all tokens.
    pub(in crate::model) windows: Vec<Option<i32>>,
    /// Of layers that see all tokens.
    pub(in crate::model) rope: RopeConfig,
    /// Of layers with a window.
    pub(in crate::model) local_rope: RopeConfig,
}

impl ModernEncoderConfig {
    /// # Errors
    /// A setting is missing, is of the wrong type, or has a value that is not covered.
    pub(in crate::model) fn parse(config: Settings<'_>) -> Result<Self, ModelError> {
        let size = |name: &'static str, most: i32| {
            config.whole(name, 1, most)?.ok_or(ModelError::MissingSetting { setting: name })
        };
        let flag = |name: &str| config.flag(name).map(|flag| flag.unwrap_or(false));
        if let Some(other) = config.text("hidden_activation")?.filter(|found| *found != "gelu") {
            return config.refuse("hidden_activation", other);
        }
        let hidden_size = size("hidden_size", MAX_EMBEDDING_SIZE as i32)?;
        let queries = size("num_attention_heads", MAX_HEADS)?;
        let dim = hidden_size / queries;
        if hidden_size % queries != 0 || dim % 2 != 0 || dim > MAX_HEAD_DIM {
            return config.refuse("num_attention_heads", queries);
        }
        let layers = size("num_hidden_layers", MAX_LAYERS)?.unsigned_abs() as usize;
        let rope = |of| {
            let rope = RopeConfig::parse(config, false, of)?;
            rope.check(config, dim).map(|()| rope)
        };
        Ok(Self {
            hidden_size,
            intermediate_size: size("intermediate_size", MAX_INNER)?,
            heads: Heads { queries, kv: queries, dim },
            vocab_size: size("vocab_size", MAX_VOCAB)?,
            norm_eps: config.number("norm_eps", 0.0, 1.0)?.unwrap_or(1e-5) as f32,
            norm_bias: flag("norm_bias")?,
            attention_bias: flag("attention_bias")?,
            mlp_bias: flag("mlp_bias")?,
            max_position_embeddings: size("max_position_embeddings", MAX_CONTEXT)?,
            windows: layer_windows(config, layers)?,
            rope: rope(ROPES[0])?,
            local_rope: rope(ROPES[1])?,
        })
    }
}

/// The first layer and every so many behind it see all tokens, unless each layer's kind is said.
fn layer_windows(config: Settings<'_>, layers: usize) -> Result<Vec<Option<i32>>, ModelError> {
    let both_sides = config.whole("local_attention", 2, MAX_CONTEXT)?;
    let both_sides = both_sides.ok_or(ModelError::MissingSetting { setting: "local_attention" })?;
    let every = config.whole("global_attn_every_n_layers", 1, MAX_LAYERS)?.unwrap_or(3);
    let slides = |layer: usize| !layer.is_multiple_of(every.unsigned_abs() as usize);
    let rule = WindowRule { on: true, slides: &slides };
    windows::windows_of(config, layers, Some(both_sides / 2 + 1), &rule)
}
