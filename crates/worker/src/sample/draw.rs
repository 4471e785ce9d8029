//! The choice itself.

/// The token in which the running sum of weights, which begins with `sum`, passes `target`.
pub(super) fn pick(weights: impl Iterator<Item = (f32, u32)>, mut sum: f64, target: f64) -> u32 {
    // Rounding can leave the target at the sum itself: then it is the last one that can be drawn.
    let mut last = 0;
    for (weight, token) in weights {
        sum += f64::from(weight);
        if sum > target {
            return token;
        }
        if weight > 0.0 {
            last = token;
        }
    }
    last
}

/// A number in `[0, 1)` that depends on nothing but its arguments.
///
/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014),
/// applied to the seed and again to its sum with the position.
pub(super) fn uniform(seed: u64, position: u64) -> f64 {
    fn mix(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    let bits = mix(mix(seed).wrapping_add(position));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
