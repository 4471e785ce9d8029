//! `model_type` "ernie4_5": ERNIE 4.5 without experts: a Llama that rotates neighbouring pairs.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, RopeConfig, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 2.0),
    ("head_dim", 128.0),
    ("max_position_embeddings", 131_072.0),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 500_000.0),
];

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
