//! `model_type` "phi3": Phi 3, 3.5 and 4 without experts. Queries, keys and values are one matrix, gate and up another.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, Settings, Weights, WindowRule,
    layer_windows,
};

const COVERED: [&str; 3] = ["sliding_window", "layer_types", "partial_rotary_factor"];

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("max_position_embeddings", 4096.0),
    ("original_max_position_embeddings", 4096.0),
    ("rms_norm_eps", 1e-5),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &COVERED)?;
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &|_| true })?;
    let plan = DecoderPlan { fused_qkv: true, fused_gate_up: true, ..DecoderPlan::new(&decoder) };
    plan.with_windows(windows).load(decoder, weights)
}
