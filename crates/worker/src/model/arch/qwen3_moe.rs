//! `model_type` "qwen3_moe": Qwen 3 with experts, in all layers or in some.

use super::qwen2;
use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, MoeNames, MoePlan, QkNorm, RoutingRule,
    Settings, Weights,
};

/// Of the router and the experts.
pub(super) const NAMES: MoeNames = MoeNames {
    router: "mlp.gate",
    stacked: ["mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"],
    expert: "mlp.experts",
    parts: ["gate_proj", "up_proj", "down_proj"],
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 4.0),
    ("max_position_embeddings", 32_768.0),
    ("sliding_window", 4096.0),
    ("num_experts", 128.0),
    ("moe_intermediate_size", 768.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let windows = qwen2::windows(config, decoder.layers())?;
    let missing = |setting| ModelError::MissingSetting { setting };
    let count = config.whole("num_experts", 1, 1 << 12)?.ok_or(missing("num_experts"))?;
    let inner = config.whole("moe_intermediate_size", 1, 1 << 22)?.ok_or(missing("moe_intermediate_size"))?;
    let chosen = config.whole("num_experts_per_tok", 1, count)?.unwrap_or(8.min(count));
    let rule = RoutingRule::softmax(chosen, config.flag("norm_topk_prob")?.unwrap_or(false));
    let experts = MoePlan::new(NAMES, count, inner, rule);
    let plan = DecoderPlan {
        qk_norm: Some(QkNorm::Heads),
        experts: Some(experts),
        sparse: sparse_layers(config, decoder.layers())?,
        ..DecoderPlan::new(&decoder)
    };
    plan.with_windows(windows).load(decoder, weights)
}

/// Which layers have experts.
pub(super) fn sparse_layers(config: Settings<'_>, layers: usize) -> Result<Vec<bool>, ModelError> {
    let step = config.whole("decoder_sparse_step", 1, i32::MAX)?.unwrap_or(1).unsigned_abs() as usize;
    let mut sparse: Vec<bool> = (0..layers).map(|layer| (layer + 1).is_multiple_of(step)).collect();
    let Some(value) = config.get("mlp_only_layers") else { return Ok(sparse) };
    let Some(dense) = Settings::indices(value) else { return config.refuse("mlp_only_layers", value) };
    for layer in dense {
        match sparse.get_mut(layer) {
            Some(sparse) => *sparse = false,
            None => return config.refuse("mlp_only_layers", layer),
        }
    }
    Ok(sparse)
}
