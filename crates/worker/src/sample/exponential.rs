//! e to a power that is not positive, the same to the bit on every machine.
//!
//! The system's function is another one on every system, and not the same on every CPU of one. It is also a call for each
//! token, where this is arithmetic that the compiler does for several at a time.

use std::f32::consts::LOG2_E;

/// Below this the result is 0. It is not far above the least normal number: subnormal ones would be slow, and depend on
/// a mode of the thread.
const LOWEST: f32 = -87.0;

/// The natural logarithm of 2 in two parts. The first ends in zeros, so that a small whole number times it is exact.
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32;

/// 1.5 * 2^23: a small number added to it is rounded to a whole one, which is then in the lowest bits of the sum.
const ROUNDING: f32 = 12_582_912.0;

/// e^x for `x <= 0`, to about one unit in the last place; 0 for what is not a number.
#[inline]
pub(super) fn exponential(x: f32) -> f32 {
    // x = n ln 2 + rest, |rest| <= ln 2 / 2.
    let rounded = x * LOG2_E + ROUNDING;
    let n = rounded - ROUNDING;
    let rest = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // The power series to the seventh power: the next term is below 6e-9.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * rest + coefficient;
    }
    let two_to_n = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x >= LOWEST { sum * two_to_n } else { 0.0 }
}
