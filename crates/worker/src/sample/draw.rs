//! The choice itself.

use super::Candidate;

/// Largest value, the lowest token among equals.
pub(super) fn argmax(candidates: impl Iterator<Item = Candidate>) -> u32 {
    let best =
        candidates.fold((f32::NEG_INFINITY, 0), |best, next| if next.0 > best.0 { next } else { best });
    best.1
}

/// The candidate in which the running sum passes `target`.
pub(super) fn pick(candidates: &[Candidate], target: f64) -> u32 {
    let mut sum = 0.0;
    for &(p, token) in candidates {
        sum += f64::from(p);
        if sum > target {
            return token;
        }
    }
    // Rounding can leave the target at the sum itself.
    candidates.iter().rev().find(|&&(p, _)| p > 0.0).map_or(0, |&(_, token)| token)
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
