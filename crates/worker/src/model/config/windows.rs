//! Which layers see a window of the latest tokens only.

use serde_json::Value;

use super::{MAX_CONTEXT, ModelError, settings::Settings};

/// What an architecture does where `layer_types` does not say it.
pub(in crate::model) struct WindowRule<'a> {
    /// Whether a window is in use if `use_sliding_window` does not say it.
    pub(in crate::model) on: bool,
    /// Whether a layer has a window, if there is one.
    pub(in crate::model) slides: &'a dyn Fn(usize) -> bool,
}

/// The window of each of `layers` layers; `None`: it sees all tokens.
///
/// # Errors
/// Layers of other kinds, or of another number; a window that nothing is said of.
pub(in crate::model) fn layer_windows(
    config: Settings<'_>,
    layers: usize,
    rule: &WindowRule<'_>,
) -> Result<Vec<Option<i32>>, ModelError> {
    let on = config.flag("use_sliding_window")?.unwrap_or(rule.on);
    let is_off = config.get("sliding_window") == Some(&Value::Bool(false));
    let window = if on && !is_off { config.whole("sliding_window", 1, MAX_CONTEXT)? } else { None };
    windows_of(config, layers, window, rule)
}

/// The same of a window whose width is known.
pub(super) fn windows_of(
    config: Settings<'_>,
    layers: usize,
    window: Option<i32>,
    rule: &WindowRule<'_>,
) -> Result<Vec<Option<i32>>, ModelError> {
    let Some(kinds) = config.get("layer_types") else {
        return Ok((0..layers).map(|layer| window.filter(|_| (rule.slides)(layer))).collect());
    };
    let kinds = match kinds.as_array() {
        Some(kinds) if kinds.len() == layers => kinds,
        _ => return config.refuse("layer_types", format!("{kinds}, not one of each of {layers} layers")),
    };
    let of_kind = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_none() => {
            Err(ModelError::MissingSetting { setting: "sliding_window" })
        }
        Some("sliding_attention") => Ok(window),
        Some(other) => config.refuse("layer_types", other),
        None => config.refuse("layer_types", kind),
    };
    kinds.iter().map(of_kind).collect()
}
