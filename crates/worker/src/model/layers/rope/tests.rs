#![allow(clippy::unwrap_used)]

use super::*;

const PLAIN: RopeConfig = RopeConfig {
    traditional: false,
    base: 10_000.0,
    part: 1.0,
    scaling: RopeScaling::Plain,
    query_scale: None,
};

/// Computed with `rope_theta` 10000 and heads of 8 components.
const PLAIN_OF_8: [f64; 4] = [1.0, 0.1, 0.01, 0.001];

fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found / expected - 1.0).abs() < 1e-12, "{found}, not {expected}");
    }
}

#[test]
fn plain_inverse_frequencies_are_powers_of_the_base() {
    near(&inv_freq(&PLAIN, 8), &PLAIN_OF_8);
    let other = RopeConfig { base: 500_000.0, ..PLAIN };
    // 500000^(-2i/6)
    near(&inv_freq(&other, 6), &[1.0, 0.012_599_210_498_948_732, 0.000_158_740_105_196_819_94]);
}

#[test]
fn linear_scaling_slows_every_pair_down() {
    let config = RopeConfig { scaling: RopeScaling::Linear { factor: 4.0 }, ..PLAIN };
    near(&inv_freq(&config, 8), &PLAIN_OF_8.map(|inv_freq| inv_freq / 4.0));
}

#[test]
fn proportional_scaling_turns_the_first_pairs_of_whole_heads() {
    let config = RopeConfig { scaling: RopeScaling::Proportional { factor: 2.0, part: 0.5 }, ..PLAIN };
    let found = inv_freq(&config, 8);
    near(&found[..2], &[0.5, 0.05]);
    assert_eq!(found[2..], [0.0; 2]);
}

/// Wavelengths 6.28, 62.8, 628 and 6283 in a context of 1024 with ramps between 1024 / 4 and 1024 / 1 tokens: the first two
/// are short, the last is long, and the third is on the ramp, at `(1024 / 628.3 - 1) / 3 = 0.2099`.
#[test]
fn llama3_scaling_slows_long_wavelengths_down() {
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, old_context: 1024.0 };
    let found = inv_freq(&RopeConfig { scaling, ..PLAIN }, 8);
    let smooth = (1024.0 / (2.0 * std::f64::consts::PI / 0.01) - 1.0) / 3.0;
    assert!((smooth - 0.209_915_4_f64).abs() < 1e-6, "{smooth}");
    near(&found, &[1.0, 0.1, (1.0 - smooth) * 0.01 / 8.0 + smooth * 0.01, 0.001 / 8.0]);
    // Both ends of the ramp meet its sides.
    let at = |old_context: f64| {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, old_context };
        inv_freq(&RopeConfig { scaling, ..PLAIN }, 8)[2]
    };
    let wavelength = 2.0 * std::f64::consts::PI / 0.01;
    near(&[at(wavelength), at(4.0 * wavelength)], &[0.01 / 8.0, 0.01]);
}

/// With `rope_theta` 10000 and 8 components, pair `i` makes `context / (2 pi 10^i)` turns: 1024 tokens are 4 turns at pair
/// 1.61 and 1 turn at pair 2.21, so that pair 2 is on the ramp. In whole pairs the ramp is from 1 to 3.
#[test]
fn yarn_s_ramp_lies_between_whole_pairs_unless_it_is_not_truncated() {
    let of = |truncate| {
        let scaling = RopeScaling::Yarn {
            factor: 8.0,
            old_context: 1024.0,
            beta_fast: 4.0,
            beta_slow: 1.0,
            truncate,
            gain: 1.0,
            share_of_all: 1.0,
        };
        inv_freq(&RopeConfig { scaling, ..PLAIN }, 8)
    };
    let slowed = |ramp: f64, plain: f64| plain * (1.0 - ramp) + plain / 8.0 * ramp;
    near(&of(true), &[1.0, 0.1, slowed(0.5, 0.01), 0.001 / 8.0]);
    let pair = |turns: f64| (1024.0 / (turns * std::f64::consts::TAU)).log10();
    let (low, high) = (pair(4.0), pair(1.0));
    assert!((low - 1.61).abs() < 0.01 && (high - 2.21).abs() < 0.01, "{low} to {high}");
    near(&of(false), &[1.0, 0.1, slowed((2.0 - low) / (high - low), 0.01), 0.001 / 8.0]);
}
