//! `model_type` "seed_oss": a Llama whose attention may have biases on one side only.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 8.0),
    ("head_dim", 128.0),
    ("max_position_embeddings", 524_288.0),
    ("attention_bias", 1.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &[])?;
    let output_bias = config.flag("attention_out_bias")?.unwrap_or(false);
    DecoderPlan { output_bias, ..DecoderPlan::new(&decoder) }.load(decoder, weights)
}
