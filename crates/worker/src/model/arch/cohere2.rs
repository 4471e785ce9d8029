//! `model_type` "cohere2": Command R7B and Command A. Like its predecessor, but layers with a window rotate, and those that
//! see all do not.

use super::cohere;
use crate::model::layers::{
    Architecture, DecoderConfig, Defaults, ModelError, RopeConfig, Settings, Weights, WindowRule,
    layer_windows,
};

const COVERED: [&str; 3] = ["sliding_window", "layer_types", "logit_scale"];

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[("max_position_embeddings", 8192.0), ("sliding_window", 4096.0)];

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
    let mut plan = cohere::plan(config, &decoder)?.with_windows(windows);
    for (_, spec) in plan.layers().filter(|(_, spec)| spec.window.is_none()) {
        spec.rope = None;
    }
    plan.load(decoder, weights)
}
