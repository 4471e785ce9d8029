//! GGUF element types, and their blocks as MLX affine groups.
//!
//! A GGUF block and an MLX group both hold 32 consecutive elements of a row:
//!
//! ```text
//! GGUF  Q4_0  f16 d, 16 bytes            value = d * (q - 8)
//!       Q4_1  f16 d, f16 m, 16 bytes     value = d * q + m
//!             byte i: element i in the low half, element i + 16 in the high half
//!       Q8_0  f16 d, 32 signed bytes     value = d * q
//! MLX   weight: unsigned q, packed upwards from the low bits of u32 words
//!       scales, biases: f16              value = scale * q + bias
//! ```
//!
//! So the scale is `d`, the bias is `m`, `-8 d` or `-128 d` (exact, being
//! powers of two times `d`), and no value changes.

use half::f16;
use safetensors::Dtype;

use super::GgufError;

/// Elements of a quantized block, and of an MLX group made from it.
pub(crate) const GROUP: u64 = 32;

/// The element types that can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q8_0,
}

/// A quantized tensor becomes three, a dense one stays one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The elements as they are.
    Dense,
    /// Packed integers, `[N, K * bits / 32]` u32.
    Weight,
    /// `[N, K / 32]` f16.
    Scales,
    /// `[N, K / 32]` f16.
    Biases,
}

impl TensorType {
    /// The type with this number in the file format.
    pub(crate) fn of_number(number: u32, tensor: &str) -> Result<Self, GgufError> {
        Ok(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            30 => Self::Bf16,
            other => {
                return Err(GgufError::Unsupported(format!(
                    "tensor `{tensor}` has type {}, which MLX cannot hold exactly; use a file with \
                     Q4_0, Q4_1, Q8_0, F16, BF16 or F32 tensors only, or the original safetensors",
                    type_name(other)
                )));
            }
        })
    }

    /// Bits an element takes in MLX; `None` for dense types.
    pub(crate) fn bits(self) -> Option<u64> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => None,
            Self::Q4_0 | Self::Q4_1 => Some(4),
            Self::Q8_0 => Some(8),
        }
    }

    /// Bytes of a tensor; `None` if that overflows or rows are not whole blocks.
    pub(crate) fn byte_len(self, shape: &[u64]) -> Option<u64> {
        let (elements, bytes) = self.block();
        let row = *shape.last()?;
        let total = shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))?;
        (total > 0 && row.is_multiple_of(elements)).then_some(())?;
        (total / elements).checked_mul(bytes)
    }

    /// The tensors this one becomes, each with its type and shape; `None` for
    /// a quantized tensor that is not a matrix.
    pub(crate) fn parts(self, shape: &[u64]) -> Option<Vec<(Part, Dtype, Vec<u64>)>> {
        let Some(bits) = self.bits() else {
            return Some(vec![(Part::Dense, self.dense_dtype()?, shape.to_vec())]);
        };
        let &[rows, row] = shape else { return None };
        Some(vec![
            (Part::Weight, Dtype::U32, vec![rows, row * bits / 32]),
            (Part::Scales, Dtype::F16, vec![rows, row / GROUP]),
            (Part::Biases, Dtype::F16, vec![rows, row / GROUP]),
        ])
    }

    /// Appends `part` of some whole blocks to `out`.
    pub(crate) fn convert(self, part: Part, blocks: &[u8], out: &mut Vec<u8>) -> Result<(), GgufError> {
        if part == Part::Dense {
            out.extend_from_slice(blocks);
            return Ok(());
        }
        for block in blocks.chunks_exact(self.block().1 as usize) {
            match part {
                Part::Weight => self.pack(block, out),
                Part::Scales => out.extend_from_slice(&finite(scale(block))?.to_le_bytes()),
                Part::Biases => out.extend_from_slice(&finite(self.bias(block))?.to_le_bytes()),
                Part::Dense => {}
            }
        }
        Ok(())
    }

    /// Elements and bytes of a block; a dense element is a block of its own.
    fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (GROUP, 2 + 16),
            Self::Q4_1 => (GROUP, 4 + 16),
            Self::Q8_0 => (GROUP, 2 + 32),
        }
    }

    fn dense_dtype(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::BF16),
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => None,
        }
    }

    fn pack(self, block: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Q4_0 => pack_nibbles(&block[2..], out),
            Self::Q4_1 => pack_nibbles(&block[4..], out),
            // A signed byte plus 128 is the byte with its top bit flipped.
            _ => out.extend(block[2..].iter().map(|byte| byte ^ 0x80)),
        }
    }

    fn bias(self, block: &[u8]) -> f16 {
        let times = |factor: f32| f16::from_f32(factor * scale(block).to_f32());
        match self {
            Self::Q4_1 => f16::from_le_bytes([block[2], block[3]]),
            Self::Q4_0 => times(-8.0),
            _ => times(-128.0),
        }
    }
}

fn scale(block: &[u8]) -> f16 {
    f16::from_le_bytes([block[0], block[1]])
}

/// 16 bytes of halves (i, i + 16) to 16 bytes of halves (2 i, 2 i + 1).
fn pack_nibbles(halves: &[u8], out: &mut Vec<u8>) {
    let (pairs, _) = halves.as_chunks::<2>();
    out.extend(pairs.iter().map(|[a, b]| (a & 0x0f) | (b << 4)));
    out.extend(pairs.iter().map(|[a, b]| (a >> 4) | (b & 0xf0)));
}

fn finite(value: f16) -> Result<f16, GgufError> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(GgufError::Damaged("the scale of a block is not a finite number".to_owned()))
}

/// Names of types that can't be imported, for the error.
fn type_name(number: u32) -> String {
    let name = match number {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16..=23 | 29 => "IQ",
        34 | 35 => "TQ",
        39 => "MXFP4",
        other => return format!("number {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// Element values by the definition at the top of the file.
    fn by_gguf(kind: TensorType, block: &[u8]) -> Vec<f32> {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let nibble = |bytes: &[u8], i: usize| f32::from((bytes[i % 16] >> (4 * (i / 16))) & 15);
        (0..32)
            .map(|i| match kind {
                TensorType::Q4_0 => d * (nibble(&block[2..], i) - 8.0),
                TensorType::Q4_1 => {
                    d * nibble(&block[4..], i) + f16::from_le_bytes([block[2], block[3]]).to_f32()
                }
                _ => d * f32::from(block[2 + i] as i8),
            })
            .collect()
    }

    fn by_mlx(kind: TensorType, block: &[u8]) -> Vec<f32> {
        let part = |part| {
            let mut out = Vec::new();
            kind.convert(part, block, &mut out).unwrap();
            out
        };
        let half = |bytes: Vec<u8>| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let (scale, bias) = (half(part(Part::Scales)), half(part(Part::Biases)));
        let words: Vec<u32> =
            part(Part::Weight).chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        let bits = kind.bits().unwrap() as u32;
        let per_word = 32 / bits;
        (0..32)
            .map(|i| (words[(i / per_word) as usize] >> (bits * (i % per_word))) & ((1 << bits) - 1))
            .map(|q| scale * q as f32 + bias)
            .collect()
    }

    proptest! {
        #[test]
        fn no_value_changes(d in -60.0_f32..60.0, m in -60.0_f32..60.0, q in prop::array::uniform32(any::<u8>())) {
            for (kind, payload) in [(TensorType::Q4_0, 16), (TensorType::Q4_1, 16), (TensorType::Q8_0, 32)] {
                let mut block = f16::from_f32(d).to_le_bytes().to_vec();
                if kind == TensorType::Q4_1 {
                    block.extend(f16::from_f32(m).to_le_bytes());
                }
                block.extend(&q[..payload]);
                // d * q + bias is exact in f32 for the symmetric types; Q4_1 is the same formula.
                prop_assert_eq!(by_gguf(kind, &block), by_mlx(kind, &block));
            }
        }
    }

    #[test]
    fn a_scale_that_is_no_number_is_refused() {
        let mut block = f16::NAN.to_le_bytes().to_vec();
        block.extend([0; 32]);
        assert!(TensorType::Q8_0.convert(Part::Scales, &block, &mut Vec::new()).is_err());
        block[..2].copy_from_slice(&f16::from_f32(60000.0).to_le_bytes());
        assert!(TensorType::Q8_0.convert(Part::Biases, &block, &mut Vec::new()).is_err());
    }
}
