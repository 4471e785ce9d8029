//! `model_type` "roberta" and "xlm-roberta": BERT with positions that begin behind that of the padding.

use crate::model::layers::{Encoder, EncoderConfig, EncoderPlan, ModelError, Settings, Weights};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(config: Settings<'_>, weights: &mut Weights<'_>) -> Result<Box<dyn Encoder>, ModelError> {
    let plan = EncoderPlan { prefix: "roberta.", positions_behind_padding: true };
    plan.load(EncoderConfig::parse(config)?, weights)
}
