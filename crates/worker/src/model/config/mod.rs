//! What the configuration of a decoder says, checked: no number that this lets pass can overflow where sizes are multiplied.

mod encoder;
mod kinds;
mod mixed_heads;
mod modern_encoder;
mod rope;
mod settings;
mod windows;

use artifact_store::python_json::as_float;
use serde_json::Value;

pub(super) use encoder::EncoderConfig;
pub(super) use kinds::layer_kinds;
pub(super) use mixed_heads::{full_heads, mixed_windows, own_layers};
pub(super) use modern_encoder::ModernEncoderConfig;
pub(super) use rope::{QueryScaleConfig, RopeConfig, RopeScaling};
pub(super) use settings::{Defaults, Settings};
pub(super) use windows::{WindowRule, layer_windows};

use super::ModelError;
use crate::backend::{Gate, Heads};

// The largest of each that is taken. All lie far above what has been published, and so low that every product of them
// that is a tensor's dimension stays within 32 bits.
const MAX_HIDDEN: i32 = 1 << 20;
const MAX_INNER: i32 = 1 << 22;
const MAX_LAYERS: i32 = 4096;
const MAX_HEADS: i32 = 1 << 14;
const MAX_HEAD_DIM: i32 = 1024;
const MAX_VOCAB: i32 = 1 << 24;
const MAX_CONTEXT: i32 = 1 << 27;

/// What rotary parameters call layers that see all tokens, and the setting of their base.
const FULL_ATTENTION: (&str, &str) = ("full_attention", "rope_theta");

/// What transformers assumes where nothing is said.
const DEFAULT_CONTEXT: i32 = 2048;
const DEFAULT_EPS: f64 = 1e-6;

/// The configuration of a decoder of Llama's kind, with Hugging Face's names and defaults.
#[derive(Debug, Clone)]
pub(super) struct DecoderConfig {
    pub(super) hidden_size: i32,
    pub(super) num_hidden_layers: i32,
    pub(super) intermediate_size: i32,
    pub(super) heads: Heads,
    pub(super) vocab_size: i32,
    pub(super) rms_norm_eps: f32,
    pub(super) max_position_embeddings: i32,
    pub(super) attention_bias: bool,
    pub(super) mlp_bias: bool,
    pub(super) rope: RopeConfig,
    /// Whether the embedding gives the logits; where it is not said, the weights tell.
    pub(super) tie_word_embeddings: Option<bool>,
}

impl DecoderConfig {
    /// `covered` names settings that the architecture covers itself and that would be refused here.
    ///
    /// # Errors
    /// A setting is missing, is of the wrong type, or has a value that would change the answers and is not covered.
    pub(super) fn parse(config: Settings<'_>, covered: &[&str]) -> Result<Self, ModelError> {
        let size = |name: &'static str, most: i32| {
            config.whole(name, 1, most)?.ok_or(ModelError::MissingSetting { setting: name })
        };
        let hidden_size = size("hidden_size", MAX_HIDDEN)?;
        let queries = size("num_attention_heads", MAX_HEADS)?;
        let heads = heads(config, hidden_size, queries)?;
        let context = config.whole("max_position_embeddings", 1, MAX_CONTEXT)?.unwrap_or(DEFAULT_CONTEXT);
        refuse_what_is_not_covered(config, context, covered)?;
        let rope = RopeConfig::parse(config, covered.contains(&"partial_rotary_factor"), FULL_ATTENTION)?;
        // The parameters are those of layers that see all tokens.
        rope.check(config, full_heads(config, heads)?.dim)?;
        Ok(Self {
            hidden_size,
            num_hidden_layers: size("num_hidden_layers", MAX_LAYERS)?,
            intermediate_size: size("intermediate_size", MAX_INNER)?,
            heads,
            vocab_size: size("vocab_size", MAX_VOCAB)?,
            rms_norm_eps: config.number("rms_norm_eps", 0.0, 1.0)?.unwrap_or(DEFAULT_EPS) as f32,
            max_position_embeddings: context,
            attention_bias: config.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: config.flag("mlp_bias")?.unwrap_or(false),
            rope,
            tie_word_embeddings: config.flag("tie_word_embeddings")?,
        })
    }

    /// How many layers there are.
    pub(super) fn layers(&self) -> usize {
        self.num_hidden_layers.unsigned_abs() as usize
    }
}

/// The activation of a model whose gates go through GELU in its approximation, which is refused under any other name.
///
/// # Errors
/// Another activation.
pub(super) fn gelu_gate(config: Settings<'_>) -> Result<Gate, ModelError> {
    // The newer name counts.
    for name in ["hidden_activation", "hidden_act"] {
        match config.text(name)? {
            None => {}
            Some("gelu_pytorch_tanh" | "gelu_new") => return Ok(Gate::GeluTanh),
            Some(other) => return config.refuse(name, other),
        }
    }
    Ok(Gate::GeluTanh)
}

/// Numbers that a token's keys and values are made of, in all layers.
pub(super) fn kv_token_values(config: Settings<'_>) -> Result<u64, ModelError> {
    let size = |name: &'static str, most: i32| {
        config.whole(name, 1, most)?.ok_or(ModelError::MissingSetting { setting: name })
    };
    let (hidden_size, queries) = (size("hidden_size", MAX_HIDDEN)?, size("num_attention_heads", MAX_HEADS)?);
    let plain = heads(config, hidden_size, queries)?;
    let layers = size("num_hidden_layers", MAX_LAYERS)?;
    if config.whole("global_head_dim", 0, MAX_HEAD_DIM)?.is_some() {
        return mixed_heads::kv_token_values(config, plain, layers.unsigned_abs() as usize);
    }
    let (Heads { kv, dim, .. }, layers) = (plain, kinds::attention_count(config, layers)?);
    let factors = [layers, kv, dim];
    Ok(factors.into_iter().fold(2, |all, factor| all * u64::from(factor.unsigned_abs())))
}

fn heads(config: Settings<'_>, hidden_size: i32, queries: i32) -> Result<Heads, ModelError> {
    // Latent attention keeps one vector that all heads share, and a key that is rotated.
    if let Some(rank) = config.whole("kv_lora_rank", 1, MAX_HEAD_DIM)? {
        let rotated = config.whole("qk_rope_head_dim", 2, MAX_HEAD_DIM)?.unwrap_or(2);
        if rotated % 2 != 0 || rank + rotated > MAX_HEAD_DIM {
            return config.refuse("kv_lora_rank", format!("{rank}, with `qk_rope_head_dim` = {rotated}"));
        }
        return Ok(Heads { queries, kv: 1, dim: rank + rotated });
    }
    let kv = config.whole("num_key_value_heads", 1, MAX_HEADS)?.unwrap_or(queries);
    if queries % kv != 0 {
        return config.refuse("num_key_value_heads", kv);
    }
    let dim = config.whole("head_dim", 1, MAX_HEAD_DIM)?.unwrap_or(hidden_size / queries);
    if !(2..=MAX_HEAD_DIM).contains(&dim) || dim % 2 != 0 {
        return config.refuse("head_dim", dim);
    }
    Ok(Heads { queries, kv, dim })
}

/// Factors that models of other kinds have; 1 is what a Llama computes.
const FACTORS: [&str; 7] = [
    "partial_rotary_factor",
    "rotary_pct",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
];

/// Settings of other kinds of models that change what is computed, whatever their value.
const OTHERS: [&str; 7] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention_multiplier",
    "attention_chunk_size",
    "clip_qkv",
    "no_rope_layers",
    "query_pre_attn_scalar",
];

fn refuse_what_is_not_covered(
    config: Settings<'_>,
    context: i32,
    covered: &[&str],
) -> Result<(), ModelError> {
    let is_open = |name: &&str| !covered.contains(name);
    for name in ["hidden_act", "hidden_activation"].into_iter().filter(is_open) {
        match config.text(name)? {
            // Two names of one function.
            None | Some("silu" | "swish") => {}
            Some(other) => return config.refuse(name, other),
        }
    }
    for name in FACTORS.into_iter().filter(is_open) {
        if let Some(value) = config.get(name).filter(|value| value.as_f64() != Some(1.0)) {
            return config.refuse(name, value);
        }
    }
    for name in OTHERS.into_iter().filter(is_open) {
        if let Some(value) = config.get(name) {
            return config.refuse(name, value);
        }
    }
    let says_layers = if is_open(&"layer_types") {
        refuse_other_layers(config)?
    } else {
        config.get("layer_types").is_some()
    };
    if is_open(&"sliding_window") {
        refuse_window(config, context, says_layers)?;
    }
    if is_open(&"rope_parameters") {
        for name in ["rope_scaling", "rope_parameters"] {
            if config.object(name)?.is_some_and(rope::has_kinds) {
                return config.refuse(name, "an object for each kind of layers");
            }
        }
    }
    if is_open(&"use_qk_norm") && config.flag("use_qk_norm")? == Some(true) {
        return config.refuse("use_qk_norm", true);
    }
    Ok(())
}

/// Returns whether the configuration says of what kind each layer is.
fn refuse_other_layers(config: Settings<'_>) -> Result<bool, ModelError> {
    let Some(value) = config.get("layer_types") else { return Ok(false) };
    let Some(kinds) = value.as_array() else { return config.refuse("layer_types", value) };
    match kinds.iter().find(|kind| kind.as_str() != Some("full_attention")) {
        Some(Value::String(other)) => config.refuse("layer_types", other),
        Some(other) => config.refuse("layer_types", other),
        None => Ok(!kinds.is_empty()),
    }
}

/// A window over fewer tokens than the context, unless it is switched off, or every layer is said to see all.
fn refuse_window(config: Settings<'_>, context: i32, says_layers: bool) -> Result<(), ModelError> {
    let window = config.get("sliding_window").filter(|value| **value != Value::Bool(false));
    let Some(window) = window else { return Ok(()) };
    let in_use = config.flag("use_sliding_window")?.unwrap_or(true) && !says_layers;
    let sees_all = as_float(window).is_some_and(|window| window >= f64::from(context));
    if in_use && !sees_all { config.refuse("sliding_window", window) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
