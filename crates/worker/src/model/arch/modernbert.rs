//! `model_type` "modernbert": ModernBERT, GTE ModernBERT.

use crate::model::layers::{
    Defaults, Encoder, ModelError, ModernEncoderConfig, Settings, Weights, load_modern_encoder,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("global_rope_theta", 160_000.0),
    ("local_rope_theta", 10_000.0),
    ("local_attention", 128.0),
    ("max_position_embeddings", 8192.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(config: Settings<'_>, weights: &mut Weights<'_>) -> Result<Box<dyn Encoder>, ModelError> {
    load_modern_encoder(ModernEncoderConfig::parse(config)?, weights)
}
