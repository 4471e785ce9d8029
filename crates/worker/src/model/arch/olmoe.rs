//! `model_type` "olmoe": OLMoE: experts in all layers, and queries and keys are normalized, all heads together.

use super::qwen3_moe::NAMES;
use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, MoePlan, QkNorm, RoutingRule, Settings,
    Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[("max_position_embeddings", 4096.0), ("rms_norm_eps", 1e-5)];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &[])?;
    if decoder.mlp_bias {
        return config.refuse("mlp_bias", true);
    }
    let count = config.whole("num_experts", 1, 1 << 12)?.unwrap_or(64);
    let chosen = config.whole("num_experts_per_tok", 1, count)?.unwrap_or(8.min(count));
    let rule = RoutingRule::softmax(chosen, config.flag("norm_topk_prob")?.unwrap_or(false));
    let experts = MoePlan::new(NAMES, count, decoder.intermediate_size, rule);
    let plan = DecoderPlan {
        qk_norm: Some(QkNorm::Whole),
        experts: Some(experts),
        sparse: vec![true; decoder.layers()],
        ..DecoderPlan::new(&decoder)
    };
    plan.load(decoder, weights)
}
