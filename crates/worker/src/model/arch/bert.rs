//! `model_type` "bert": BERT, MiniLM, E5, BGE, GTE.

use crate::model::layers::{Encoder, EncoderConfig, EncoderPlan, ModelError, Settings, Weights};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(config: Settings<'_>, weights: &mut Weights<'_>) -> Result<Box<dyn Encoder>, ModelError> {
    let plan = EncoderPlan { prefix: "bert.", positions_behind_padding: false };
    plan.load(EncoderConfig::parse(config)?, weights)
}
