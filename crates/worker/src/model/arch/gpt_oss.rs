//! `model_type` "gpt_oss": every other layer sees a window, each head has a sink, and every matrix but the output head a bias;
//! experts in all layers.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, Gate, ModelError, MoeNames, MoePlan, RoutingRule,
    Settings, Weights, WindowRule, layer_windows,
};

/// What a configuration leaves out.
pub(super) const DEFAULTS: Defaults = &[
    ("head_dim", 64.0),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 150_000.0),
    ("sliding_window", 128.0),
    ("num_local_experts", 128.0),
    ("num_experts_per_tok", 4.0),
    ("swiglu_limit", 7.0),
];

const NAMES: MoeNames = MoeNames {
    router: "mlp.router",
    stacked: ["mlp.experts.gate_proj", "mlp.experts.up_proj", "mlp.experts.down_proj"],
    expert: "mlp.experts",
    parts: ["gate_proj", "up_proj", "down_proj"],
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let slides = |layer: usize| layer.is_multiple_of(2);
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &slides })?;
    let missing = |setting| ModelError::MissingSetting { setting };
    let count = config.whole("num_local_experts", 1, 1 << 12)?.ok_or(missing("num_local_experts"))?;
    let chosen = config.whole("num_experts_per_tok", 1, count)?.ok_or(missing("num_experts_per_tok"))?;
    if let Some(limit) = config.number("swiglu_limit", 0.0, 1e6)?.filter(|limit| *limit != 7.0) {
        return config.refuse("swiglu_limit", limit);
    }
    let bias = config.flag("attention_bias")?.unwrap_or(true);
    let rule = RoutingRule::softmax(chosen, true);
    let experts = MoePlan { bias: true, ..MoePlan::new(NAMES, count, decoder.intermediate_size, rule) };
    let plan = DecoderPlan {
        qkv_bias: bias,
        output_bias: bias,
        sinks: true,
        gate: Gate::SwigluOai,
        experts: Some(experts),
        sparse: vec![true; decoder.layers()],
        ..DecoderPlan::new(&decoder)
    };
    plan.with_windows(windows).load(decoder, weights)
}
