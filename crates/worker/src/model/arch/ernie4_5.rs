//! `model_type` "ernie4_5": ERNIE 4.5 without experts: a Llama that rotates neighbouring pairs.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, ModelError, RopeConfig, Settings, Weights,
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let mut decoder = DecoderConfig::parse(config, &[])?;
    decoder.rope = RopeConfig { traditional: true, ..decoder.rope };
    let bias = config.flag("use_bias")?.unwrap_or(false);
    let plan =
        DecoderPlan { qkv_bias: bias, output_bias: bias, mlp_bias: bias, ..DecoderPlan::new(&decoder) };
    plan.load(decoder, weights)
}
