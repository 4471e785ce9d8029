//! `model_type` "cohere2": Command R7B and others. Attention and feed-forward network are parallel; layers with a window
//! rotate, those that see all do not.

use crate::model::layers::{
    Architecture, BlockNorms, DecoderConfig, DecoderPlan, ModelError, NormParams, RopeConfig, Settings,
    Weights, WindowRule, layer_windows,
};

const COVERED: [&str; 3] = ["sliding_window", "layer_types", "logit_scale"];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let mut decoder = DecoderConfig::parse(config, &COVERED)?;
    decoder.rope = RopeConfig { traditional: true, ..decoder.rope };
    let pattern = config.whole("sliding_window_pattern", 1, i32::MAX)?.unwrap_or(4).unsigned_abs() as usize;
    let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &slides })?;
    let eps = config.number("layer_norm_eps", 0.0, 1.0)?.unwrap_or(1e-5) as f32;
    let mut plan = DecoderPlan {
        norm: NormParams::layer(eps, config.flag("layer_norm_bias")?.unwrap_or(false)),
        block_norms: BlockNorms::Parallel { before: "input_layernorm" },
        logit_factor: config.number("logit_scale", 1e-6, 1e6)?.unwrap_or(0.0625) as f32,
        ..DecoderPlan::new(&decoder)
    }
    .with_windows(windows);
    for (_, spec) in plan.layers().filter(|(_, spec)| spec.window.is_none()) {
        spec.rope = None;
    }
    plan.load(decoder, weights)
}
