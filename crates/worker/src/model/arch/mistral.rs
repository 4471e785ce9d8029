//! `model_type` "mistral": a Llama whose layers see a window of tokens, if the configuration has one.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, ModelError, Settings, Weights, WindowRule, layer_windows,
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &|_| true })?;
    DecoderPlan::new(&decoder).with_windows(windows).load(decoder, weights)
}
