//! `model_type` "gemma3_text", and "gemma3", which has a vision tower beside it that is left out. Most layers see a window
//! and rotate in another way than those that see all.

use std::rc::Rc;

use crate::model::layers::{
    Architecture, BlockNorms, DecoderConfig, DecoderPlan, Defaults, ModelError, NormParams, QkNorm,
    RopeConfig, Settings, Weights, WindowRule, gelu_gate, layer_windows, load_rope,
};

/// What is not the language model's.
const OTHERS: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

const COVERED: [&str; 6] = [
    "hidden_act",
    "hidden_activation",
    "sliding_window",
    "layer_types",
    "query_pre_attn_scalar",
    "rope_parameters",
];

/// Published configurations say only in what they differ from these.
pub(super) const DEFAULTS: Defaults = &[
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("vocab_size", 262_208.0),
    ("max_position_embeddings", 131_072.0),
    ("rope_theta", 1_000_000.0),
    ("rope_local_base_freq", 10_000.0),
    ("query_pre_attn_scalar", 256.0),
    ("sliding_window", 4096.0),
];

/// The base of the rotation in layers with a window.
const LOCAL_BASE: &str = "rope_local_base_freq";

/// Its normalizations.
pub(super) const BLOCK_NORMS: BlockNorms = BlockNorms::InTurn {
    attention_before: Some("input_layernorm"),
    attention_after: Some("post_attention_layernorm"),
    mlp_before: Some("pre_feedforward_layernorm"),
    mlp_after: Some("post_feedforward_layernorm"),
};

/// Of the one with a vision tower.
pub(super) fn load_nested(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    weights.enter("language_model.", &OTHERS);
    load(config.of_text()?, weights)
}

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    // As EmbeddingGemma has it.
    let bidirectional = config.flag("use_bidirectional_attention")? == Some(true);
    if bidirectional && !weights.embeds() {
        return config.refuse("use_bidirectional_attention", true);
    }
    let decoder = DecoderConfig::parse(config, &COVERED)?;
    let pattern = config.whole("sliding_window_pattern", 1, i32::MAX)?;
    let pattern = pattern.or(config.whole("_sliding_window_pattern", 1, i32::MAX)?).unwrap_or(6);
    let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern.unsigned_abs() as usize);
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &slides })?;
    let mut plan = DecoderPlan {
        norm: NormParams::rms_plus_one(decoder.rms_norm_eps),
        block_norms: BLOCK_NORMS,
        qk_norm: Some(QkNorm::Heads),
        gate: gelu_gate(config)?,
        // A number that bfloat16 has, as in training.
        embedding_factor: bfloat16((decoder.hidden_size as f32).sqrt()),
        ..DecoderPlan::new(&decoder)
    }
    .with_windows(windows);
    let local = local_rope(config)?;
    local.check(config, decoder.heads.dim)?;
    let local = load_rope(&local, decoder.heads.dim, decoder.max_position_embeddings);
    let scale = query_scale(config)?;
    for (_, spec) in plan.layers() {
        spec.scale = scale;
        spec.bidirectional = bidirectional;
        if bidirectional {
            // The configuration has its whole width: half of it lies ahead.
            spec.window = spec.window.map(|window| window / 2 + 1);
        }
        if spec.window.is_some() {
            spec.rope = Some(Rc::clone(&local));
        }
    }
    plan.load(decoder, weights)
}

/// The factor of attention scores.
pub(super) fn query_scale(config: Settings<'_>) -> Result<f32, ModelError> {
    let scalar = config.number("query_pre_attn_scalar", 1e-3, 1e6)?;
    let scalar = scalar.ok_or(ModelError::MissingSetting { setting: "query_pre_attn_scalar" })?;
    Ok(scalar.sqrt().recip() as f32)
}

/// The rotation of layers with a window: an object of its own in newer configurations, or a plain one with its own base.
fn local_rope(config: Settings<'_>) -> Result<RopeConfig, ModelError> {
    let kinds = config.object("rope_parameters")?.filter(|kinds| kinds.mentions("sliding_attention"));
    if kinds.is_some() {
        return RopeConfig::parse(config, false, ("sliding_attention", LOCAL_BASE));
    }
    let base = config.number(LOCAL_BASE, 1.0, 1e20)?.unwrap_or(10_000.0);
    Ok(RopeConfig::plain(base as f32))
}

/// Rounded to nearest even.
fn bfloat16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}
