//! `model_type` "qwen3": Qwen 3, without experts. Queries and keys are normalized, each head by itself.

use super::qwen2;
use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, QkNorm, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 32.0),
    ("head_dim", 128.0),
    ("max_position_embeddings", 32_768.0),
    ("sliding_window", 4096.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["sliding_window", "layer_types"])?;
    let windows = qwen2::windows(config, decoder.layers())?;
    let plan = DecoderPlan { qk_norm: Some(QkNorm::Heads), ..DecoderPlan::new(&decoder) };
    plan.with_windows(windows).load(decoder, weights)
}
