//! `model_type` "qwen2": Qwen 2 and 2.5, without experts. Queries, keys and values have biases.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, Settings, Weights, WindowRule,
    layer_windows,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults =
    &[("num_key_value_heads", 32.0), ("max_position_embeddings", 32_768.0), ("sliding_window", 4096.0)];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let windows = windows(config, decoder.layers())?;
    let plan = DecoderPlan { qkv_bias: true, output_bias: false, ..DecoderPlan::new(&decoder) };
    plan.with_windows(windows).load(decoder, weights)
}

/// Windows are off unless the configuration switches them on, and only late layers have one.
pub(super) fn windows(config: Settings<'_>, layers: usize) -> Result<Vec<Option<i32>>, ModelError> {
    let first = config.whole("max_window_layers", 0, i32::MAX)?.unwrap_or(28).unsigned_abs() as usize;
    layer_windows(config, layers, &WindowRule { on: false, slides: &|layer| layer >= first })
}
