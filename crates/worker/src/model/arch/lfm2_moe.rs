//! `model_type` "lfm2_moe": LFM 2 with experts in all layers but the first ones. Sigmoids choose them, with a correction.

use super::lfm2;
use crate::model::layers::{
    Architecture, BlockNames, DecoderPlan, Defaults, ModelError, MoeNames, MoePlan, RoutingRule, Scores,
    Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 8.0),
    ("max_position_embeddings", 128_000.0),
    ("rope_theta", 1_000_000.0),
    ("norm_eps", 1e-5),
    ("intermediate_size", 7168.0),
    ("moe_intermediate_size", 1792.0),
    ("num_dense_layers", 2.0),
    ("num_experts", 32.0),
    ("num_experts_per_tok", 4.0),
    ("norm_topk_prob", 1.0),
    ("use_expert_bias", 1.0),
    ("routed_scaling_factor", 1.0),
    ("conv_L_cache", 3.0),
];

/// Of the router and the experts: stacked as mlx-lm has them, one by one as transformers does.
const NAMES: MoeNames = MoeNames {
    router: "feed_forward.gate",
    stacked: [
        "feed_forward.switch_mlp.gate_proj",
        "feed_forward.switch_mlp.up_proj",
        "feed_forward.switch_mlp.down_proj",
    ],
    expert: "feed_forward.experts",
    parts: ["w1", "w3", "w2"],
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = lfm2::parse(config)?;
    let plan = lfm2::plan(config, &decoder)?;
    let dense = config.whole("num_dense_layers", 0, i32::MAX)?.unwrap_or(0).unsigned_abs() as usize;
    let plan = DecoderPlan {
        // Of dense layers mlx-lm has other names than transformers.
        names: match weights.contains("model.layers.0.feed_forward.gate_proj.weight") {
            true => BlockNames { mlp_parts: BlockNames::LLAMA.mlp_parts, ..plan.names },
            false => plan.names,
        },
        experts: Some(experts(config)?),
        sparse: (0..decoder.layers()).map(|layer| layer >= dense).collect(),
        ..plan
    };
    plan.load(decoder, weights)
}

fn experts(config: Settings<'_>) -> Result<MoePlan, ModelError> {
    let missing = |setting| ModelError::MissingSetting { setting };
    let count = config.whole("num_experts", 1, 1 << 12)?.ok_or(missing("num_experts"))?;
    let inner = config.whole("moe_intermediate_size", 1, 1 << 22)?.ok_or(missing("moe_intermediate_size"))?;
    let chosen = config.whole("num_experts_per_tok", 1, count)?.ok_or(missing("num_experts_per_tok"))?;
    let rule = RoutingRule {
        scores: Scores::Sigmoid,
        normalized: config.flag("norm_topk_prob")?.unwrap_or(true),
        least_sum: 1e-6,
        factor: config.number("routed_scaling_factor", 1e-6, 1e6)?.unwrap_or(1.0) as f32,
        ..RoutingRule::softmax(chosen, false)
    };
    let is_corrected = config.flag("use_expert_bias")?.unwrap_or(true);
    Ok(MoePlan {
        correction: is_corrected.then_some("feed_forward.expert_bias"),
        ..MoePlan::new(NAMES, count, inner, rule)
    })
}
