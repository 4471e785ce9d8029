//! `model_type` "mistral": a Llama whose layers see a window of tokens, if the configuration has one.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, Settings, Weights, WindowRule,
    layer_windows,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults =
    &[("num_key_value_heads", 8.0), ("max_position_embeddings", 131_072.0), ("sliding_window", 4096.0)];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &|_| true })?;
    DecoderPlan::new(&decoder).with_windows(windows).load(decoder, weights)
}
