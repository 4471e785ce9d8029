//! `model_type` "granite": Granite 3 without experts: a Llama with a factor at each of its joints.

use crate::model::layers::{Architecture, DecoderConfig, DecoderPlan, ModelError, Settings, Weights};

const COVERED: [&str; 4] =
    ["attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &COVERED)?;
    let factor = |name| Ok::<_, ModelError>(config.number(name, 1e-6, 1e6)?.unwrap_or(1.0));
    let mut plan = DecoderPlan {
        embedding_factor: factor("embedding_multiplier")? as f32,
        residual_factor: factor("residual_multiplier")? as f32,
        logit_factor: factor("logits_scaling")?.recip() as f32,
        ..DecoderPlan::new(&decoder)
    };
    let scale = factor("attention_multiplier")? as f32;
    plan.layers().for_each(|(_, spec)| spec.scale = scale);
    plan.load(decoder, weights)
}
