//! The `_K` types: blocks of 256 elements, whose parts have small integers as scales.
//!
//! ```text
//! Q2_K  16 bytes (4 bits sc, 4 bits mn), 64 bytes q, f16 d, f16 dmin   value = d sc q - dmin mn    parts of 16
//! Q3_K  32 bytes third bits, 64 bytes q, 12 bytes sc, f16 d            value = d (sc - 32) (q - 4) parts of 16
//! Q4_K  f16 d, f16 dmin, 12 bytes sc and mn, 128 bytes q               value = d sc q - dmin mn    parts of 32
//! Q5_K  the same, with 32 bytes of fifth bits before q                 value = d sc q - dmin mn    parts of 32
//! Q6_K  128 bytes q, 64 bytes of bits 5 and 6, 16 signed bytes sc, d   value = d sc (q - 32)       parts of 16
//! ```
//!
//! `d sc` and `dmin mn` have at most 11 + 6 significant bits, so that f32 holds them exactly.

use super::{
    group::{Group, half_at},
    types::SUPERBLOCK,
};

/// Parts of 32 in a superblock.
const PARTS: usize = SUPERBLOCK as usize / 32;

pub(super) fn q4(block: &[u8]) -> [Group; PARTS] {
    let (scales, quants) = (&block[4..16], &block[16..]);
    scaled_parts(block, scales, |part, i| four_bits(quants, part, i))
}

pub(super) fn q5(block: &[u8]) -> [Group; PARTS] {
    let (scales, fifths, quants) = (&block[4..16], &block[16..48], &block[48..]);
    // Byte i of the fifth bits holds element i of each part, part 0 in its lowest bit.
    scaled_parts(block, scales, |part, i| four_bits(quants, part, i) | ((fifths[i] >> part) & 1) << 4)
}

pub(super) fn q2_values(block: &[u8], out: &mut Vec<f32>) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, least) = (half_at(block, 80), half_at(block, 82));
    for (sixteenth, scale) in scales.iter().enumerate() {
        let step = d * f32::from(scale & 0x0f);
        let min = least * f32::from(scale >> 4);
        out.extend((0..16).map(|i| step * f32::from(two_bits(quants, sixteenth, i)) - min));
    }
}

pub(super) fn q3_values(block: &[u8], out: &mut Vec<f32>) {
    let (thirds, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for sixteenth in 0..16 {
        // Four low bits in the first eight bytes, two high ones in the last four.
        let low = (scales[sixteenth % 8] >> (4 * (sixteenth / 8))) & 0x0f;
        let high = (scales[8 + sixteenth % 4] >> (2 * (sixteenth / 4))) & 3;
        let step = d * (f32::from(low | high << 4) - 32.0);
        out.extend((0..16).map(|i| {
            // Byte i of the third bits holds element i of each 32, the first 32 in its lowest bit.
            let third = (thirds[sixteenth % 2 * 16 + i] >> (sixteenth / 2)) & 1;
            step * (f32::from(two_bits(quants, sixteenth, i) | third << 2) - 4.0)
        }));
    }
}

pub(super) fn q6_values(block: &[u8], out: &mut Vec<f32>) {
    let (quants, highs, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (sixteenth, scale) in scales.iter().enumerate() {
        let step = d * f32::from(*scale as i8);
        // In each half of 128 elements: 64 bytes with elements i and i + 64, and 32 bytes with two high bits of
        // elements i, i + 32, i + 64 and i + 96.
        let (half, within) = (sixteenth / 8, sixteenth % 8 * 16);
        out.extend((within..within + 16).map(|i| {
            let low = (quants[64 * half + i % 64] >> (4 * (i / 64))) & 0x0f;
            let high = (highs[32 * half + i % 32] >> (2 * (i / 32))) & 3;
            step * (f32::from(low | high << 4) - 32.0)
        }));
    }
}

/// Parts with six-bit scales and minima.
fn scaled_parts(block: &[u8], scales: &[u8], q: impl Fn(usize, usize) -> u8) -> [Group; PARTS] {
    let (d, least) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|part| {
        let (scale, min) = scale_and_min(scales, part);
        Group {
            scale: d * f32::from(scale),
            bias: -(least * f32::from(min)),
            q: std::array::from_fn(|i| q(part, i)),
        }
    })
}

/// Parts 0 to 3 have a byte for each scale and each minimum, in six bits; the four bits of parts 4 to 7 are in the last
/// four bytes, and the two above them in the top bits of the others.
fn scale_and_min(bytes: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (bytes[part] & 0x3f, bytes[part + 4] & 0x3f);
    }
    let low = bytes[part + 4];
    ((low & 0x0f) | (bytes[part - 4] >> 6) << 4, (low >> 4) | (bytes[part] >> 6) << 4)
}

/// Of 32 bytes for each two parts: the even part in the low halves.
fn four_bits(quants: &[u8], part: usize, i: usize) -> u8 {
    (quants[part / 2 * 32 + i] >> (4 * (part % 2))) & 0x0f
}

/// Of 32 bytes for each 128 elements: two bits of elements i, i + 32, i + 64 and i + 96.
fn two_bits(quants: &[u8], sixteenth: usize, i: usize) -> u8 {
    let (half, pair) = (sixteenth / 8, sixteenth % 8 / 2);
    (quants[32 * half + sixteenth % 2 * 16 + i] >> (2 * pair)) & 3
}
