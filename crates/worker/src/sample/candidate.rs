//! A token and its number, in the order in which they are chosen from.

/// A token with its logit, later with its weight. Larger numbers come first, and the lower token first among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(
    /// The number, mapped so that falling ones rise, and below it the token: whole numbers are sorted much faster.
    u64,
);

const SIGN: u32 = 1 << 31;

impl Candidate {
    pub(super) fn new(value: f32, token: u32) -> Self {
        let bits = value.to_bits();
        // As whole numbers, the bits of positive floats rise with them, and those of negative ones fall.
        let falling = if bits & SIGN == 0 { !(bits | SIGN) } else { bits };
        Self(u64::from(falling) << 32 | u64::from(token))
    }

    pub(super) fn value(self) -> f32 {
        let falling = (self.0 >> 32) as u32;
        f32::from_bits(if falling & SIGN == 0 { !falling & !SIGN } else { falling })
    }

    pub(super) fn token(self) -> u32 {
        self.0 as u32
    }
}
