//! `model_type` "qwen3_5" and "qwen3_5_moe": Qwen 3.5, without its vision tower. Like Qwen 3 Next, but for how the inputs of
//! its gated delta nets are stored.

use super::qwen3_next;
use crate::model::layers::{Architecture, DeltaInputs, ModelError, Settings, Weights};

/// What is not the language model's, in the files of mlx-lm and in those of transformers.
const OTHERS: [&str; 4] = ["vision_tower.", "model.visual.", "mtp.", "language_model.mtp."];

/// Of the language model's tensors, in the files of mlx-lm or behind `model.` in those of transformers.
const PREFIX: &str = "language_model.";

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    if weights.any("model.language_model.") {
        weights.enter_behind_model(PREFIX, &OTHERS);
    } else {
        weights.enter(if weights.any(PREFIX) { PREFIX } else { "" }, &OTHERS);
    }
    qwen3_next::load_with(config.of_text()?, weights, DeltaInputs::ByKind)
}
