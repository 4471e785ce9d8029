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
