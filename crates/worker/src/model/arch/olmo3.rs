//! `model_type` "olmo3": like OLMo 2, but most layers see a window, and the context is stretched only in those that see all.

use std::rc::Rc;

use super::olmo2;
use crate::model::layers::{
    Architecture, DecoderConfig, Defaults, ModelError, RopeConfig, RopeScaling, Settings, Weights,
    WindowRule, layer_windows, load_rope,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults =
    &[("rms_norm_eps", 1e-5), ("rope_theta", 500_000.0), ("sliding_window", 4096.0)];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types", "rope_parameters"])?;
    let slides = |layer: usize| !(layer + 1).is_multiple_of(4);
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &slides })?;
    let mut plan = olmo2::plan(&decoder).with_windows(windows);
    let local = local_rope(config, &decoder)?;
    let local = load_rope(&local, decoder.heads.dim, decoder.max_position_embeddings);
    for (_, spec) in plan.layers().filter(|(_, spec)| spec.window.is_some()) {
        spec.rope = Some(Rc::clone(&local));
    }
    plan.load(decoder, weights)
}

/// Newer configurations have an object for each kind of layers; otherwise those with a window rotate as they did before the
/// context was stretched.
fn local_rope(config: Settings<'_>, decoder: &DecoderConfig) -> Result<RopeConfig, ModelError> {
    let kinds = config.object("rope_parameters")?.filter(|kinds| kinds.mentions("sliding_attention"));
    if kinds.is_none() {
        return Ok(RopeConfig { scaling: RopeScaling::Plain, ..decoder.rope.clone() });
    }
    let local = RopeConfig::parse(config, false, ("sliding_attention", "rope_theta"))?;
    local.check(config, decoder.heads.dim)?;
    Ok(local)
}
