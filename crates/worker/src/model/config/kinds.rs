//! Of which kinds the layers are, where some have no attention.

use super::{ModelError, settings::Settings};

/// Kinds of layers that keep no keys and values.
const WITHOUT_ATTENTION: [&str; 2] = ["conv", "linear_attention"];

/// Which of `layers` layers have attention; the others are of the kind `other`. `None`: it is not said.
///
/// # Errors
/// Layers of other kinds, or of another number.
pub(in crate::model) fn layer_kinds(
    config: Settings<'_>,
    layers: usize,
    other: &str,
) -> Result<Option<Vec<bool>>, ModelError> {
    let Some(kinds) = config.get("layer_types") else { return Ok(None) };
    let kinds = match kinds.as_array() {
        Some(kinds) if kinds.len() == layers => kinds,
        _ => return config.refuse("layer_types", format!("{kinds}, not one of each of {layers} layers")),
    };
    let attends = kinds.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(true),
        Some(kind) if kind == other => Ok(false),
        Some(unknown) => config.refuse("layer_types", unknown),
        None => config.refuse("layer_types", kind),
    });
    attends.collect::<Result<Vec<bool>, _>>().map(Some)
}

/// How many of `layers` layers have attention, as far as the configuration tells.
pub(super) fn attention_count(config: Settings<'_>, layers: i32) -> Result<i32, ModelError> {
    if let Some(kinds) = config.get("layer_types").and_then(|kinds| kinds.as_array()) {
        let without = kinds.iter().filter_map(|kind| kind.as_str());
        let without = without.filter(|kind| WITHOUT_ATTENTION.contains(kind)).count();
        return Ok(layers - (without as i32).min(layers));
    }
    if let Some(value) = config.get("full_attn_idxs") {
        let attends = Settings::indices(value).map_or(0, |indices| indices.len());
        return Ok((attends as i32).min(layers));
    }
    let interval = config.whole("full_attention_interval", 1, i32::MAX)?.unwrap_or(1);
    Ok(layers / interval)
}
