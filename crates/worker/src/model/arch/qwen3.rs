//! `model_type` "qwen3": Qwen 3, without experts. Queries and keys are normalized, each head by itself.

use super::qwen2;
use crate::model::layers::{Architecture, DecoderConfig, DecoderPlan, ModelError, QkNorm, Settings, Weights};

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
