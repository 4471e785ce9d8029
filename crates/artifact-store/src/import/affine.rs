//! MLX's affine quantization: `value ≈ scale * q + bias`, one scale and bias for each group of neighbours.
//!
//! The rule is that of `mx.quantize`, to the bit: the end of the range that is farther from zero is representable, the
//! other end is about one step from it, and zero is representable where the range includes it. Everything is computed
//! in f32; scales and biases are rounded to their type only when all else is done.

use crate::Quantization;

/// Smallest distance between two representable values.
const MIN_SCALE: f32 = 1e-7;

/// Quantizes whole groups: appends the packed integers to `packed`, and hands each group's scale and bias to `each`.
/// `values` are finite.
pub(super) fn quantize(
    values: &[f32],
    quantization: Quantization,
    packed: &mut Vec<u8>,
    mut each: impl FnMut(f32, f32),
) {
    let most = f32::from(u8::MAX >> (8 - quantization.bits));
    let mut integers = Vec::new();
    for group in values.chunks_exact(quantization.group_size.into()) {
        let (scale, bias) = scale_and_bias(group, most);
        integers.clear();
        integers.extend(group.iter().map(|value| round((value - bias) / scale, most)));
        pack(&integers, quantization.bits, packed);
        each(scale, bias);
    }
}

/// Appends integers as MLX packs them: one stream of bits, the first integer in the lowest. Their number is a multiple of
/// eight, so that they end with a byte.
pub(super) fn pack(integers: &[u8], bits: u8, out: &mut Vec<u8>) {
    match bits {
        8 => out.extend_from_slice(integers),
        4 => out.extend(integers.as_chunks().0.iter().map(|[low, high]| low | high << 4)),
        _ => {
            for eight in integers.as_chunks::<8>().0 {
                let stream = eight.iter().rev().fold(0_u64, |stream, &q| stream << bits | u64::from(q));
                out.extend_from_slice(&stream.to_le_bytes()[..bits.into()]);
            }
        }
    }
}

fn scale_and_bias(group: &[f32], most: f32) -> (f32, f32) {
    let (min, max) = range(group);
    let scale = ((max - min) / most).max(MIN_SCALE);
    let (edge, scale) = if min.abs() > max.abs() { (min, scale) } else { (max, -scale) };
    match (edge / scale).round_ties_even() {
        0.0 => (scale, 0.0),
        steps => (edge / steps, edge),
    }
}

/// Least and greatest, in lanes that the compiler can vectorize.
fn range(group: &[f32]) -> (f32, f32) {
    let (mut least, mut greatest) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    let (lanes, _) = group.as_chunks::<16>();
    for values in lanes {
        for i in 0..16 {
            least[i] = if values[i] < least[i] { values[i] } else { least[i] };
            greatest[i] = if values[i] > greatest[i] { values[i] } else { greatest[i] };
        }
    }
    (least.into_iter().fold(f32::INFINITY, f32::min), greatest.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// To the nearest integer, ties to the even one, between 0 and `most`. Adding 2^23 makes the addition round to integers;
/// they are then the lowest bits of the sum.
fn round(value: f32, most: f32) -> u8 {
    const INTEGERS: f32 = 8_388_608.0;
    let limited = if value > 0.0 { value } else { 0.0 };
    let limited = if limited < most { limited } else { most };
    (limited + INTEGERS).to_bits() as u8
}
