//! MXFP4: 32 floats of 4 bits (e2m1) with a common power of two.
//!
//! ```text
//! GGUF  byte e, 16 bytes                     value = 2^(e - 127) * e2m1(q)
//!       byte i: element i in the low half, element i + 16 in the high half
//! MLX   byte e as the scale, 16 bytes        the same value
//!       byte i: element 2 i in the low half, element 2 i + 1 in the high half
//! ```

use super::{GgufError, types::GROUP};

/// What the eight codes without a sign stand for.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
/// The exponent that stands for "not a number".
const NAN: u8 = 0xff;
/// The largest exponent with which every element is a finite number.
const MAX_SAFE: u8 = 252;
/// A block's bytes: the exponent, then half a byte an element.
const BLOCK: usize = 1 + GROUP as usize / 2;

/// Some whole blocks as MLX packs them: elements and scales.
///
/// # Errors
/// A scale or an element that is not finite.
pub(crate) fn repack(blocks: &[u8], elements: &mut Vec<u8>, scales: &mut Vec<u8>) -> Result<(), GgufError> {
    for block in blocks.chunks_exact(BLOCK) {
        let exponent = exponent(block)?;
        if exponent > MAX_SAFE {
            let mut numbers = Vec::new();
            values(block, &mut numbers)?;
            if !numbers.iter().all(|number| number.is_finite()) {
                return Err(GgufError::NotFinite);
            }
        }
        scales.push(exponent);
        elements.extend((0..16).map(|i| code(block, 2 * i) | code(block, 2 * i + 1) << 4));
    }
    Ok(())
}

/// Appends the elements of some whole blocks.
///
/// # Errors
/// A scale that is NaN.
pub(super) fn values(blocks: &[u8], out: &mut Vec<f32>) -> Result<(), GgufError> {
    for block in blocks.chunks_exact(BLOCK) {
        let scale = f64::from(i32::from(exponent(block)?) - 127).exp2();
        out.extend((0..GROUP as usize).map(|i| {
            let code = code(block, i);
            let magnitude = (scale * f64::from(E2M1[usize::from(code & 7)])) as f32;
            if code & 8 == 0 { magnitude } else { -magnitude }
        }));
    }
    Ok(())
}

fn exponent(block: &[u8]) -> Result<u8, GgufError> {
    if block[0] == NAN { Err(GgufError::NotFinite) } else { Ok(block[0]) }
}

fn code(block: &[u8], i: usize) -> u8 {
    (block[1 + i % 16] >> (4 * (i / 16))) & 0x0f
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn elements_come_in_their_order() {
        // Element i has the code i % 16.
        let block: Vec<u8> = [130].into_iter().chain((0..16).map(|i| i | i << 4)).collect();
        let (mut elements, mut scales, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        repack(&block, &mut elements, &mut scales).unwrap();
        values(&block, &mut numbers).unwrap();
        assert_eq!(scales, [130]);
        assert_eq!(elements, [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe].repeat(2));
        assert_eq!(numbers[..8], [0.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0]);
        assert_eq!(numbers[9..11], [-4.0, -8.0]);
    }

    #[test]
    fn exponents_at_the_ends_are_numbers_or_refused() {
        let block = |exponent: u8| [&[exponent][..], &[0x77; 16]].concat();
        let mut numbers = Vec::new();
        values(&block(0), &mut numbers).unwrap();
        assert_eq!(numbers[0], 6.0 * 2_f32.powi(-127));
        for convert in
            [values, |blocks: &[u8], _: &mut Vec<f32>| repack(blocks, &mut Vec::new(), &mut Vec::new())]
        {
            assert!(matches!(convert(&block(255), &mut Vec::new()), Err(GgufError::NotFinite)));
        }
    }
}
