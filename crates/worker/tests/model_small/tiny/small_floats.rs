//! Matrices of floats of 4 or 8 bits.

use super::{Tensor, Tiny};

impl Tiny {
    pub(super) fn small_floats(
        &mut self,
        name: &str,
        [outputs, inputs]: [usize; 2],
        group: usize,
        bits: usize,
        spread: f64,
    ) {
        let largest = if bits == 4 { 6.0 } else { 448.0 };
        let exponent = (spread / largest).log2().floor() as i32;
        let (mut bytes, mut scales, mut kept) = (vec![], vec![], vec![]);
        for _ in 0..outputs * inputs / group {
            let random = self.random.next();
            let scale = if self.spec.mode == "nvfp4" {
                let scale = ((exponent + 7) as u8) << 3 | (random % 8) as u8;
                scales.push(scale);
                e4m3(scale)
            } else {
                let exponent = exponent + (random % 2) as i32;
                scales.push((exponent + 127) as u8);
                2_f64.powi(exponent)
            };
            for _ in 0..group * bits / 8 {
                // Not the two that are no numbers.
                let byte = (self.random.next() & 0xbf) as u8;
                bytes.push(byte);
                match bits {
                    4 => kept.extend([e2m1(byte & 15), e2m1(byte >> 4)].map(|value| scale * value)),
                    _ => kept.push(scale * e4m3(byte)),
                }
            }
        }
        let packed = Tensor { dtype: "U32", shape: vec![outputs, inputs * bits / 32], bytes };
        self.tensors.insert(format!("{name}.weight"), packed);
        let scales = Tensor { dtype: "U8", shape: vec![outputs, inputs / group], bytes: scales };
        self.tensors.insert(format!("{name}.scales"), scales);
        self.values.insert(name.to_owned(), kept);
    }
}

/// Sign, two bits of exponent, one of mantissa.
fn e2m1(bits: u8) -> f64 {
    float(bits, 1, 1)
}

/// Sign, four bits of exponent, three of mantissa.
fn e4m3(bits: u8) -> f64 {
    float(bits, 3, 7)
}

fn float(bits: u8, mantissa: u32, bias: i32) -> f64 {
    let sign_place = if mantissa == 1 { 3 } else { 7 };
    let (negative, magnitude) = (bits >> sign_place & 1 == 1, bits & ((1 << sign_place) - 1));
    let (exponent, fraction) =
        (i32::from(magnitude >> mantissa), f64::from(magnitude & ((1 << mantissa) - 1)));
    let fraction = fraction / f64::from(1 << mantissa);
    let value = match exponent {
        0 => fraction * 2_f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2_f64.powi(exponent - bias),
    };
    if negative { -value } else { value }
}
