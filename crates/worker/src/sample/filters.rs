//! Which tokens can be drawn, and how likely each is.

use std::cmp::Ordering;

use super::Candidate;

/// Keeps the `top_k` largest, in any order; 0 keeps all.
pub(super) fn apply_top_k(candidates: &mut Vec<Candidate>, top_k: u32) {
    let top_k = top_k as usize;
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, by_falling_value);
        candidates.truncate(top_k);
    }
}

/// Replaces logits by unnormalised probabilities at `temperature`; returns their sum.
pub(super) fn to_probabilities(candidates: &mut [Candidate], temperature: f32) -> f64 {
    let max = candidates.iter().fold(f32::NEG_INFINITY, |max, &(logit, _)| max.max(logit));
    let mut total = 0.0;
    for (value, _) in candidates {
        // Equal infinities would give NaN; a certain token has weight 1.
        *value = if *value == max { 1.0 } else { ((*value - max) / temperature).exp() };
        total += f64::from(*value);
    }
    total
}

/// Sorts, then keeps the smallest head that reaches `top_p` of `total`, and of it the tokens at least
/// `min_p` as likely as the first. Returns the sum of what is kept.
pub(super) fn apply_top_p_min_p(candidates: &mut Vec<Candidate>, total: f64, top_p: f32, min_p: f32) -> f64 {
    // All tokens below this together weigh less than `1 - top_p`, so the head never needs them. It spares
    // sorting the whole vocabulary.
    let negligible = (1.0 - f64::from(top_p)) * total / candidates.len().max(1) as f64;
    if min_p <= 0.0 || top_p < 1.0 {
        candidates.retain(|&(p, _)| f64::from(p) >= negligible);
    }
    sort(candidates);
    let threshold = min_p * candidates.first().map_or(0.0, |&(p, _)| p);
    let mut kept = 0.0;
    let mut len = 0;
    for &(p, _) in candidates.iter() {
        if len > 0 && (kept >= f64::from(top_p) * total || p < threshold) {
            break;
        }
        kept += f64::from(p);
        len += 1;
    }
    candidates.truncate(len);
    kept
}

/// Large values first, and the lower token first among equals.
pub(super) fn sort(candidates: &mut [Candidate]) {
    candidates.sort_unstable_by(by_falling_value);
}

/// The order is total: no two candidates are the same token.
pub(super) fn by_falling_value(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}
