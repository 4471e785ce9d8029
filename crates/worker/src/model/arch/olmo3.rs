//! `model_type` "olmo3": like OLMo 2, but most layers see a window, and the context is stretched only in those that see all.

use std::rc::Rc;

use super::olmo2;
use crate::model::layers::{
    Architecture, DecoderConfig, ModelError, RopeConfig, RopeScaling, Settings, Weights, WindowRule,
    layer_windows, load_rope,
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let slides = |layer: usize| !(layer + 1).is_multiple_of(4);
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &slides })?;
    let mut plan = olmo2::plan(&decoder).with_windows(windows);
    let local = RopeConfig { scaling: RopeScaling::Plain, ..decoder.rope.clone() };
    let local = load_rope(&local, decoder.heads.dim, decoder.max_position_embeddings);
    for (_, spec) in plan.layers().filter(|(_, spec)| spec.window.is_some()) {
        spec.rope = Some(Rc::clone(&local));
    }
    plan.load(decoder, weights)
}
