//! What each quantized type means, element by element, as the format's description has it: for tests, slow and plain.

use half::f16;

use super::types::TensorType;

/// The types whose elements come in blocks.
pub(crate) const QUANTIZED: [TensorType; 11] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::Mxfp4,
];

/// Elements of a block.
pub(crate) fn values(kind: TensorType, block: &[u8]) -> Vec<f32> {
    (0..kind.block().0 as usize).map(|i| value(kind, block, i)).collect()
}

/// Writes the block's own scales; everything else in a block may be any bytes.
#[cfg(test)]
pub(super) fn set_scales(kind: TensorType, block: &mut [u8], d: f16, m: f16) {
    if kind == TensorType::Mxfp4 {
        // An exponent, of which the largest means NaN.
        block[0] = if d.is_finite() { (d.to_bits() % 250) as u8 } else { 255 };
        return;
    }
    let (d_at, m_at) = match kind {
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => (0, Some(2)),
        TensorType::Q2_K => (80, Some(82)),
        TensorType::Q3_K => (108, None),
        TensorType::Q6_K => (208, None),
        _ => (0, None),
    };
    block[d_at..d_at + 2].copy_from_slice(&d.to_le_bytes());
    if let Some(at) = m_at {
        block[at..at + 2].copy_from_slice(&m.to_le_bytes());
    }
}

fn value(kind: TensorType, block: &[u8], i: usize) -> f32 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let bit = |at: usize, bit: usize| usize::from(block[at + bit / 8] >> (bit % 8) & 1);
    // Element i of 32, low halves first.
    let nibble = |at: usize| usize::from(if i < 16 { block[at + i] & 15 } else { block[at + i - 16] >> 4 });
    // Two bits of element i: 128 elements in 32 bytes.
    let pair = |at: usize| usize::from(block[at + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3);
    // Four bits of element i: 64 elements in 32 bytes.
    let four = |at: usize| usize::from(block[at + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15);
    match kind {
        TensorType::Q4_0 => half(0) * (nibble(2) as f32 - 8.0),
        TensorType::Q4_1 => half(0) * nibble(4) as f32 + half(2),
        TensorType::Q5_0 => half(0) * ((nibble(6) + 16 * bit(2, i)) as f32 - 16.0),
        TensorType::Q5_1 => half(0) * (nibble(8) + 16 * bit(4, i)) as f32 + half(2),
        TensorType::Q8_0 => half(0) * f32::from(block[2 + i] as i8),
        TensorType::Q2_K => {
            let scales = block[i / 16];
            half(80) * f32::from(scales & 15) * pair(16) as f32 - half(82) * f32::from(scales >> 4)
        }
        TensorType::Q3_K => {
            let third = usize::from(block[i % 32] >> (i / 32) & 1);
            let scale = q3_scales(&block[96..108])[i / 16];
            half(108) * f32::from(scale) * ((pair(32) + 4 * third) as f32 - 4.0)
        }
        TensorType::Q4_K | TensorType::Q5_K => {
            let (scale, min) = k_scales(&block[4..16])[i / 32];
            let q = match kind {
                TensorType::Q4_K => four(16),
                _ => four(48) + 16 * usize::from(block[16 + i % 32] >> (i / 32) & 1),
            };
            half(0) * f32::from(scale) * q as f32 - half(2) * f32::from(min)
        }
        TensorType::Q6_K => {
            let within = i % 128;
            let low = usize::from(block[i / 128 * 64 + within % 64] >> (within / 64 * 4) & 15);
            let q = low + 16 * pair(128);
            half(208) * f32::from(block[192 + i / 16] as i8) * (q as f32 - 32.0)
        }
        TensorType::Mxfp4 => {
            let (q, exponent) = (nibble(1), i32::from(block[0]) - 127);
            // Two bits of exponent and one of mantissa; the smallest exponent has no leading one.
            let (power, half) = (q >> 1 & 3, q as f64 % 2.0 / 2.0);
            let magnitude = if power == 0 { half } else { (1.0 + half) * (1 << (power - 1)) as f64 };
            let sign = if q & 8 == 0 { 1.0 } else { -1.0 };
            if block[0] == 255 { f32::NAN } else { (sign * magnitude * f64::from(exponent).exp2()) as f32 }
        }
        TensorType::F32 | TensorType::F16 | TensorType::Bf16 => f32::NAN,
    }
}

/// Six bits for each of eight scales and minima, read off the picture in the format's description:
/// ```text
///  0: EEAAAAAA   4: eeaaaaaa   8: eeeeEEEE
///  1: FFBBBBBB   5: ffbbbbbb   9: ffffFFFF
///  2: GGCCCCCC   6: ggcccccc  10: ggggGGGG
///  3: HHDDDDDD   7: hhdddddd  11: hhhhHHHH
/// ```
fn k_scales(bytes: &[u8]) -> [(u8, u8); 8] {
    let mut scales = [(0, 0); 8];
    for i in 0..4 {
        scales[i] = (bytes[i] % 64, bytes[i + 4] % 64);
        scales[i + 4] = (bytes[i + 8] % 16 + bytes[i] / 64 * 16, bytes[i + 8] / 16 + bytes[i + 4] / 64 * 16);
    }
    scales
}

/// Sixteen scales of six bits: four low bits in halves of bytes 0 to 7, two high ones in quarters of bytes 8 to 11.
fn q3_scales(bytes: &[u8]) -> [i8; 16] {
    let mut scales = [0; 16];
    for i in 0..4 {
        for quarter in 0..4 {
            let low =
                if quarter < 2 { bytes[quarter * 4 + i] % 16 } else { bytes[(quarter - 2) * 4 + i] / 16 };
            let high = bytes[8 + i] >> (2 * quarter) & 3;
            scales[quarter * 4 + i] = (low + high * 16) as i8 - 32;
        }
    }
    scales
}
