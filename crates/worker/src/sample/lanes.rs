//! One number of many, in lanes that the compiler makes vectors of. How many there are is fixed, and with it what is
//! computed: the result does not depend on the CPU's vectors.

const LANES: usize = 16;

/// The largest; negative infinity if none is a number.
pub(super) fn max(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// The sum. The lanes take turns; in the end they are added up in order.
pub(super) fn sum(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(value);
    }
    lanes.iter().sum()
}

/// Whether any value is at least `least`.
pub(super) fn reach(values: &[f32], least: f32) -> bool {
    // Without an early exit, which would be a branch for each value.
    values.iter().fold(false, |any, &value| any | (value >= least))
}

/// `b` must be larger to be taken, which what is not a number never is. That is what the CPU's instruction does.
#[inline]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}
