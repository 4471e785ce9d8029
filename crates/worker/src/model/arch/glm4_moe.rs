//! `model_type` "glm4_moe": GLM 4.5 and later with experts, which are chosen as in DeepSeek V3. A part of each head is rotated.

use super::deepseek_v3::{drop_predictors, sigmoid_rule, with_experts};
use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, QkNorm, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 8.0),
    ("max_position_embeddings", 131_072.0),
    ("rms_norm_eps", 1e-5),
    ("partial_rotary_factor", 0.5),
    ("moe_intermediate_size", 1408.0),
    ("n_shared_experts", 1.0),
    ("n_routed_experts", 128.0),
    ("num_experts_per_tok", 8.0),
    ("norm_topk_prob", 1.0),
    ("first_k_dense_replace", 1.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["partial_rotary_factor", "use_qk_norm"])?;
    let is_normed = config.flag("use_qk_norm")?.unwrap_or(false);
    let plan = DecoderPlan {
        qk_norm: is_normed.then_some(QkNorm::Heads),
        output_bias: false,
        ..DecoderPlan::new(&decoder)
    };
    let plan = with_experts(config, &decoder, plan, &|experts| sigmoid_rule(config, experts))?;
    drop_predictors(weights, &decoder);
    plan.load(decoder, weights)
}
