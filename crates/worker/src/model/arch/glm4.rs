//! `model_type` "glm4": GLM 4 of 2025, without experts. A part of each head is rotated, in
//! neighbouring pairs.

use crate::model::layers::{
    Architecture, BlockNorms, DecoderConfig, DecoderPlan, Defaults, ModelError, RopeConfig, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 2.0),
    ("head_dim", 128.0),
    ("max_position_embeddings", 131_072.0),
    ("rms_norm_eps", 1.5625e-7),
    ("attention_bias", 1.0),
    ("partial_rotary_factor", 0.5),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let mut decoder = DecoderConfig::parse(config, &["partial_rotary_factor"])?;
    decoder.rope =
        RopeConfig { traditional: config.flag("rope_traditional")?.unwrap_or(true), ..decoder.rope };
    let plan = DecoderPlan {
        block_norms: BlockNorms::InTurn {
            attention_before: Some("input_layernorm"),
            attention_after: Some("post_self_attn_layernorm"),
            mlp_before: Some("post_attention_layernorm"),
            mlp_after: Some("post_mlp_layernorm"),
        },
        output_bias: false,
        fused_gate_up: true,
        ..DecoderPlan::new(&decoder)
    };
    plan.load(decoder, weights)
}
