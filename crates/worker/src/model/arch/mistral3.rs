//! `model_type` "mistral3": a Mistral beside a vision tower, which is left out. Text only.

use super::{ministral3, mistral};
use crate::model::layers::{Architecture, ModelError, Settings, Weights};

/// What is not the language model's.
const OTHERS: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let text = config.of_text()?;
    weights.enter("language_model.", &OTHERS);
    match text.text("model_type")? {
        Some("ministral3") => ministral3::load(text, weights),
        Some("mistral") | None => mistral::load(text, weights),
        Some(other) => text.refuse("model_type", other),
    }
}
