//! `model_type` "olmo2": normalizations stand behind the sublayers, and queries and keys are normalized, all heads together.

use crate::model::layers::{
    Architecture, BlockNorms, DecoderConfig, DecoderPlan, Defaults, ModelError, QkNorm, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[("rms_norm_eps", 1e-5)];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &[])?;
    plan(&decoder).load(decoder, weights)
}

/// What it has in common with its successor.
pub(super) fn plan(config: &DecoderConfig) -> DecoderPlan {
    DecoderPlan {
        block_norms: BlockNorms::InTurn {
            attention_before: None,
            attention_after: Some("post_attention_layernorm"),
            mlp_before: None,
            mlp_after: Some("post_feedforward_layernorm"),
        },
        qk_norm: Some(QkNorm::Whole),
        ..DecoderPlan::new(config)
    }
}
