//! `model_type` "cohere": Command R and Aya. Attention and feed-forward network are parallel.

use crate::model::layers::{
    Architecture, BlockNorms, DecoderConfig, DecoderPlan, Defaults, ModelError, NormParams, RopeConfig,
    Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[("max_position_embeddings", 8192.0), ("rope_theta", 500_000.0)];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let mut decoder = DecoderConfig::parse(config, &["logit_scale"])?;
    decoder.rope = RopeConfig { traditional: true, ..decoder.rope };
    plan(config, &decoder)?.load(decoder, weights)
}

/// What it has in common with its successor.
pub(super) fn plan(config: Settings<'_>, decoder: &DecoderConfig) -> Result<DecoderPlan, ModelError> {
    let eps = config.number("layer_norm_eps", 0.0, 1.0)?.unwrap_or(1e-5) as f32;
    Ok(DecoderPlan {
        norm: NormParams::layer(eps, config.flag("layer_norm_bias")?.unwrap_or(false)),
        block_norms: BlockNorms::Parallel { before: "input_layernorm" },
        logit_factor: config.number("logit_scale", 1e-6, 1e6)?.unwrap_or(0.0625) as f32,
        ..DecoderPlan::new(decoder)
    })
}
