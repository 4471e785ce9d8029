//! Quantized blocks as groups of 32 elements, and as numbers.
//!
//! A GGUF block and an MLX group both hold 32 consecutive elements of a row:
//!
//! ```text
//! GGUF  Q4_0  f16 d, 16 bytes                      value = d * (q - 8)
//!       Q4_1  f16 d, f16 m, 16 bytes               value = d * q + m
//!       Q5_0  f16 d, u32 fifth bits, 16 bytes      value = d * (q - 16)
//!       Q5_1  f16 d, f16 m, u32 fifth bits, 16 b.  value = d * q + m
//!             byte i: element i in the low half, element i + 16 in the high half
//!       Q8_0  f16 d, 32 signed bytes               value = d * q
//! MLX   unsigned q, one scale and bias             value = scale * q + bias
//! ```
//!
//! So the scale is `d`, the bias is `m`, or `d` times a negative power of two (exact in f16), and no value changes.
//! `superblock` does the same for the types that end in `_K`.

use half::{f16, slice::HalfFloatSliceExt};

use super::{
    GgufError,
    group::{Group, half_at},
    micro_scaled, superblock,
    types::TensorType,
};

impl TensorType {
    /// The groups of some whole blocks of a type that MLX's packing holds ([`Form::Affine`]).
    ///
    /// # Errors
    /// A scale or bias that is not finite.
    pub(crate) fn groups(
        self,
        blocks: &[u8],
        mut each: impl FnMut(&Group) -> Result<(), GgufError>,
    ) -> Result<(), GgufError> {
        for block in blocks.chunks_exact(self.block().1 as usize) {
            match self {
                Self::Q4_K => superblock::q4(block).iter().try_for_each(|group| each(&finite(group)?)),
                Self::Q5_K => superblock::q5(block).iter().try_for_each(|group| each(&finite(group)?)),
                _ => each(&finite(&self.group(block))?),
            }?;
        }
        Ok(())
    }

    /// Appends the elements of some whole blocks.
    ///
    /// # Errors
    /// A scale or an element that is not finite.
    pub(crate) fn values(self, blocks: &[u8], out: &mut Vec<f32>) -> Result<(), GgufError> {
        let start = out.len();
        match self {
            Self::F32 => out.extend(blocks.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
            Self::Bf16 => {
                out.extend(blocks.as_chunks::<2>().0.iter().map(|&[a, b]| f32::from_le_bytes([0, 0, a, b])));
            }
            Self::F16 => {
                let halves: Vec<f16> =
                    blocks.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect();
                out.resize(start + halves.len(), 0.0);
                halves.convert_to_f32_slice(&mut out[start..]);
            }
            Self::Q2_K | Self::Q3_K | Self::Q6_K => {
                for block in blocks.chunks_exact(self.block().1 as usize) {
                    match self {
                        Self::Q2_K => superblock::q2_values(block, out),
                        Self::Q3_K => superblock::q3_values(block, out),
                        _ => superblock::q6_values(block, out),
                    }
                }
            }
            Self::Mxfp4 => micro_scaled::values(blocks, out)?,
            _ => self.groups(blocks, |group| {
                out.extend(group.q.map(|q| group.scale * f32::from(q) + group.bias));
                Ok(())
            })?,
        }
        // Without a branch, which would keep the loop from being vectorized.
        let finite = out[start..].iter().fold(true, |all, value| all & value.is_finite());
        if finite { Ok(()) } else { Err(GgufError::NotFinite) }
    }

    /// The group of a plain block.
    fn group(self, block: &[u8]) -> Group {
        let scale = half_at(block, 0);
        match self {
            Self::Q4_0 => Group { scale, bias: -8.0 * scale, q: nibbles(&block[2..]) },
            Self::Q4_1 => Group { scale, bias: half_at(block, 2), q: nibbles(&block[4..]) },
            Self::Q5_0 => Group { scale, bias: -16.0 * scale, q: fives(&block[2..]) },
            Self::Q5_1 => Group { scale, bias: half_at(block, 2), q: fives(&block[4..]) },
            // Q8_0: a signed byte plus 128 is the byte with its top bit flipped.
            _ => Group { scale, bias: -128.0 * scale, q: std::array::from_fn(|i| block[2 + i] ^ 0x80) },
        }
    }
}

/// Of bytes that hold elements i and i + 16.
fn nibbles(halves: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| (halves[i % 16] >> (4 * (i / 16))) & 0x0f)
}

/// The same after four bytes with a fifth bit for each element.
fn fives(bytes: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let low = nibbles(&bytes[4..]);
    std::array::from_fn(|i| low[i] | (((high >> i) & 1) as u8) << 4)
}

fn finite(group: &Group) -> Result<Group, GgufError> {
    if group.scale.is_finite() && group.bias.is_finite() { Ok(*group) } else { Err(GgufError::NotFinite) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use half::f16;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::gguf::{definitions, types::Form};

    fn values(kind: TensorType, block: &[u8]) -> Vec<f32> {
        let mut values = Vec::new();
        kind.values(block, &mut values).unwrap();
        values
    }

    proptest! {
        #[test]
        fn values_are_those_of_the_definitions(
            d in -60.0_f32..60.0, m in -60.0_f32..60.0, bytes in prop::collection::vec(any::<u8>(), 210),
        ) {
            for kind in definitions::QUANTIZED {
                let mut block = bytes[..kind.block().1 as usize].to_vec();
                definitions::set_scales(kind, &mut block, f16::from_f32(d), f16::from_f32(m));
                prop_assert_eq!(values(kind, &block), definitions::values(kind, &block), "{:?}", kind);
            }
        }

        /// Where scales are stored as f16, they were f16 in the file, and so are the biases made of them.
        #[test]
        fn groups_are_exact_in_the_type_of_their_scales(
            d in -60.0_f32..60.0, m in -60.0_f32..60.0, bytes in prop::collection::vec(any::<u8>(), 210),
        ) {
            for kind in definitions::QUANTIZED {
                let Form::Affine { bits, scales } = kind.form() else { continue };
                let mut block = bytes[..kind.block().1 as usize].to_vec();
                definitions::set_scales(kind, &mut block, f16::from_f32(d), f16::from_f32(m));
                kind.groups(&block, |group| {
                    assert!(group.q.iter().all(|q| u32::from(*q) < 1 << bits));
                    if scales == safetensors::Dtype::F16 {
                        assert_eq!([group.scale, group.bias].map(|x| f16::from_f32(x).to_f32()), [group.scale, group.bias]);
                    }
                    Ok(())
                }).unwrap();
            }
        }
    }

    /// What the `gguf` package of llama.cpp's authors makes of blocks; `tests/vectors/make.py` recorded it.
    #[test]
    fn values_are_those_that_were_recorded() {
        let recorded: Value = serde_json::from_str(include_str!("../../tests/vectors/gguf.json")).unwrap();
        for kind in definitions::QUANTIZED {
            let vector = &recorded[kind.name()];
            let bytes = |key: &str| hex::decode(vector[key].as_str().unwrap()).unwrap();
            let expected: Vec<f32> =
                bytes("values").as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!(values(kind, &bytes("blocks")), expected, "{kind:?}");
        }
    }

    #[test]
    fn scales_that_are_no_numbers_are_refused() {
        for kind in definitions::QUANTIZED {
            let mut block = vec![0; kind.block().1 as usize];
            definitions::set_scales(kind, &mut block, f16::INFINITY, f16::ONE);
            assert!(kind.values(&block, &mut Vec::new()).is_err(), "{kind:?}");
        }
        assert!(TensorType::F32.values(&f32::NAN.to_le_bytes(), &mut Vec::new()).is_err());
    }
}
