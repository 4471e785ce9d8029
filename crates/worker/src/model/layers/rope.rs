//! Rotary positions as a configuration describes them.

use std::{f64::consts::TAU, rc::Rc};

use super::{RopeConfig, RopeScaling};
use crate::backend::Rope;

/// The rotation of heads of `head_dim` components in a context of `context` tokens. Layers may share it.
pub(in crate::model) fn load_rope(config: &RopeConfig, head_dim: i32, context: i32) -> Rc<Rope> {
    Rc::new(Rope::new(inv_freq(config, head_dim), config.traditional, context.unsigned_abs() as usize))
}

/// Inverse frequencies: the angle by which each pair of components turns from one position to the next, in radians.
pub(in crate::model) fn inv_freq(config: &RopeConfig, head_dim: i32) -> Vec<f64> {
    let base = f64::from(config.base);
    let plain = (0..head_dim / 2).map(|pair| base.powf(f64::from(2 * pair) / f64::from(head_dim)).recip());
    match config.scaling {
        RopeScaling::Plain => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|inv_freq| inv_freq / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, old_context } => plain
            .map(|inv_freq| {
                let turns = old_context * inv_freq / TAU; // full turns within the old context
                if turns < low {
                    inv_freq / factor
                } else if turns > high {
                    inv_freq
                } else {
                    let smooth = (turns - low) / (high - low);
                    inv_freq * ((1.0 - smooth) / factor + smooth)
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
