//! `model_type` "mistral3": a Mistral beside a vision tower, which is left out. Text only.

use super::{llama, mistral};
use crate::model::layers::{Architecture, Defaults, ModelError, Settings, Weights};

/// What is not the language model's.
const OTHERS: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// What transformers assumes where the configuration of a Ministral 3 does not say it.
pub(super) const MINISTRAL: Defaults = &[
    ("num_key_value_heads", 8.0),
    ("head_dim", 128.0),
    ("max_position_embeddings", 262_144.0),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 1_000_000.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let text = config.of_text()?;
    weights.enter("language_model.", &OTHERS);
    match text.text("model_type")? {
        Some("ministral3") => llama::load(text.with_defaults(MINISTRAL), weights),
        Some("mistral") | None => mistral::load(text, weights),
        Some(other) => text.refuse("model_type", other),
    }
}
