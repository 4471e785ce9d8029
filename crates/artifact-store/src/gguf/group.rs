//! 32 elements with a scale and a bias, as MLX packs them.

use half::f16;

use super::types::GROUP;

/// 32 elements: `value = scale * q + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) scale: f32,
    pub(crate) bias: f32,
    pub(crate) q: [u8; GROUP as usize],
}

/// The f16 at a byte.
pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
