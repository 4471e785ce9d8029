//! Models whose layers that see all tokens have other heads than those with a window, and whose last layers borrow keys and
//! values.

use super::{
    MAX_HEAD_DIM, MAX_HEADS, ModelError,
    settings::Settings,
    windows::{WindowRule, layer_windows},
};
use crate::backend::Heads;

/// Of so many layers the last one sees all tokens, where the configuration does not say which do.
const PATTERN: usize = 6;

/// The window of each layer; the last layer has none.
///
/// # Errors
/// Those of [`layer_windows`]; the last layer has one.
pub(in crate::model) fn mixed_windows(
    config: Settings<'_>,
    layers: usize,
) -> Result<Vec<Option<i32>>, ModelError> {
    let slides = |layer: usize| !(layer + 1).is_multiple_of(PATTERN) && layer + 1 != layers;
    let windows = layer_windows(config, layers, &WindowRule { on: true, slides: &slides })?;
    match windows.last() {
        Some(Some(_)) => config.refuse("layer_types", "a window in the last layer"),
        _ => Ok(windows),
    }
}

/// Heads of layers that see all tokens, where those with a window have `plain` ones.
///
/// # Errors
/// They do not fit the number of queries' heads, or have an odd size.
pub(in crate::model) fn full_heads(config: Settings<'_>, plain: Heads) -> Result<Heads, ModelError> {
    // 0 says that there is no other size.
    let dim = config.whole("global_head_dim", 0, MAX_HEAD_DIM)?.filter(|dim| *dim != 0).unwrap_or(plain.dim);
    if dim % 2 != 0 {
        return config.refuse("global_head_dim", dim);
    }
    let values_are_keys = config.flag("attention_k_eq_v")?.unwrap_or(false);
    let own = config.whole("num_global_key_value_heads", 1, MAX_HEADS)?.filter(|_| values_are_keys);
    let kv = own.unwrap_or(plain.kv);
    if plain.queries % kv != 0 {
        return config.refuse("num_global_key_value_heads", kv);
    }
    Ok(Heads { kv, dim, ..plain })
}

/// How many of the layers, the first ones, have keys and values of their own.
///
/// # Errors
/// None would have any.
pub(in crate::model) fn own_layers(config: Settings<'_>, layers: usize) -> Result<usize, ModelError> {
    let borrow = config.whole("num_kv_shared_layers", 0, i32::MAX)?.unwrap_or(0).unsigned_abs() as usize;
    match layers.checked_sub(borrow) {
        Some(0) | None => config.refuse("num_kv_shared_layers", borrow),
        Some(own) => Ok(own),
    }
}

/// Numbers that a token's keys and values are made of.
pub(super) fn kv_token_values(config: Settings<'_>, plain: Heads, layers: usize) -> Result<u64, ModelError> {
    let full = full_heads(config, plain)?;
    let windows = mixed_windows(config, layers)?;
    let own = own_layers(config, layers)?;
    let values = |window: &Option<i32>| {
        let Heads { kv, dim, .. } = if window.is_some() { plain } else { full };
        2 * u64::from(kv.unsigned_abs()) * u64::from(dim.unsigned_abs())
    };
    Ok(windows.iter().take(own).map(values).sum())
}
