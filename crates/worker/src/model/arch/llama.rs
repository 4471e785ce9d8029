//! `model_type` "llama": Llama 2 and 3, SmolLM2, and others of the same build, such as Ministral 3, whose queries grow with
//! their position: that stands among the parameters of the rotation.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, ModelError, Settings, Weights, WindowRule, layer_windows,
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["layer_types"])?;
    let windows = layer_windows(config, decoder.layers(), &WindowRule { on: true, slides: &|_| false })?;
    DecoderPlan::new(&decoder).with_windows(windows).load(decoder, weights)
}
