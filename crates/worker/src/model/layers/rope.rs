//! Rotary positions as a configuration describes them.

use std::{f64::consts::TAU, rc::Rc};

use super::{QueryScaleConfig, RopeConfig, RopeScaling};
use crate::backend::{QueryScale, Rope};

/// The rotation of heads of `head_dim` components in a context of `context` tokens. Layers may share it.
pub(in crate::model) fn load_rope(config: &RopeConfig, head_dim: i32, context: i32) -> Rc<Rope> {
    let inv_freq = inv_freq(config, config.dims(head_dim));
    let rope = Rope::new(inv_freq, config.traditional, context.unsigned_abs() as usize);
    Rc::new(rope.with_gain(config.scaling.gain()))
}

/// Inverse frequencies: the angle by which each pair of `dims` components turns from one position to the next, in radians.
pub(in crate::model) fn inv_freq(config: &RopeConfig, dims: i32) -> Vec<f64> {
    let base = f64::from(config.base);
    let plain = (0..dims / 2).map(|pair| base.powf(f64::from(2 * pair) / f64::from(dims)).recip());
    match &config.scaling {
        RopeScaling::Plain => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|inv_freq| inv_freq / factor).collect(),
        RopeScaling::Proportional { factor, part } => {
            let turning = (f64::from(dims) * part) as usize / 2;
            let slowed = |(pair, inv_freq)| if pair < turning { inv_freq / factor } else { 0.0 };
            plain.enumerate().map(slowed).collect()
        }
        RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, old_context } => plain
            .map(|inv_freq| {
                let turns = old_context * inv_freq / TAU; // full turns within the old context
                if turns < *low {
                    inv_freq / factor
                } else if turns > *high {
                    inv_freq
                } else {
                    let smooth = (turns - low) / (high - low);
                    inv_freq * ((1.0 - smooth) / factor + smooth)
                }
            })
            .collect(),
        RopeScaling::Yarn { factor, old_context, beta_fast, beta_slow, truncate, .. } => {
            // The pair that makes so many turns within the old context.
            let pair = |turns: f64| f64::from(dims) * (old_context / (turns * TAU)).ln() / (2.0 * base.ln());
            let (low, high) = (pair(*beta_fast), pair(*beta_slow));
            let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(f64::from(dims - 1)));
            let width = if low == high { 0.001 } else { high - low };
            let slowed = move |(pair, inv_freq): (usize, f64)| {
                let ramp = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                inv_freq * (1.0 - ramp) + inv_freq / factor * ramp
            };
            plain.enumerate().map(slowed).collect()
        }
        RopeScaling::LongRope { factors, .. } => {
            plain.zip(factors).map(|(inv_freq, factor)| inv_freq / factor).collect()
        }
    }
}

impl QueryScaleConfig {
    /// In the form that kernels take.
    pub(in crate::model) fn table(self) -> QueryScale {
        QueryScale::new(self.beta, self.period, self.offset)
    }
}

#[cfg(test)]
mod tests;
