//! `model_type` "smollm3": a Llama in which every fourth layer does not rotate.

use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults =
    &[("num_key_value_heads", 4.0), ("max_position_embeddings", 32_768.0), ("rope_theta", 2_000_000.0)];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &["no_rope_layers"])?;
    let rotates = rotating_layers(config, decoder.layers())?;
    let mut plan = DecoderPlan::new(&decoder);
    for (layer, spec) in plan.layers() {
        spec.rope = spec.rope.take().filter(|_| rotates[layer]);
    }
    plan.load(decoder, weights)
}

/// Whether each layer rotates. The setting is named after those that do not, and has 1 for those that do.
pub(super) fn rotating_layers(config: Settings<'_>, layers: usize) -> Result<Vec<bool>, ModelError> {
    let interval = config.whole("no_rope_layer_interval", 1, i32::MAX)?.unwrap_or(4).unsigned_abs() as usize;
    let list =
        config.get("no_rope_layers").filter(|list| list.as_array().is_none_or(|list| !list.is_empty()));
    let Some(value) = list else {
        return Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    let flags = value.as_array().filter(|flags| flags.len() == layers);
    let flag = |flag: &_| config.as_flag("no_rope_layers", flag);
    match flags {
        Some(flags) => flags.iter().map(flag).collect(),
        None => config.refuse("no_rope_layers", format!("{value}, not one of each of {layers} layers")),
    }
}
