//! `model_type` "mixtral": a Mistral with experts.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, MoeNames, MoePlan, RoutingRule, Settings,
    Weights, WindowRule, layer_windows,
};

const NAMES: MoeNames = MoeNames {
    router: "block_sparse_moe.gate",
    stacked: [
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
    ],
    expert: "block_sparse_moe.experts",
    parts: ["w1", "w3", "w2"],
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 8.0),
    ("max_position_embeddings", 131_072.0),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 1_000_000.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &|_| true })?;
    let count = config.whole("num_local_experts", 1, 1 << 12)?.unwrap_or(8);
    let chosen = config.whole("num_experts_per_tok", 1, count)?.unwrap_or(2.min(count));
    let rule = RoutingRule::softmax(chosen, true);
    let experts = MoePlan::new(NAMES, count, decoder.intermediate_size, rule);
    let plan = DecoderPlan {
        experts: Some(experts),
        sparse: vec![true; decoder.layers()],
        ..DecoderPlan::new(&decoder)
    };
    plan.with_windows(windows).load(decoder, weights)
}
