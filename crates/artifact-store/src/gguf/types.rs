//! GGUF element types: their numbers, names and sizes, and what is stored for each.

use safetensors::Dtype;

use super::GgufError;

/// Elements of a quantized block, and of an MLX group made from it.
pub(crate) const GROUP: u64 = 32;
/// Elements of a block of blocks: the types whose names end in `_K`.
pub(crate) const SUPERBLOCK: u64 = 256;

/// The element types that can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub(crate) enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Mxfp4,
}

/// How the elements of a type are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Dense(Dtype),
    /// In MLX's affine packing, in groups of [`GROUP`], with the same values. The scales have the smallest type that
    /// holds them all: of plain blocks f16, as in the file; of superblocks f32, as each is a product of an f16 and an
    /// integer.
    Affine { bits: u8, scales: Dtype },
    /// In MLX's packing of small floats in groups of [`GROUP`] with a power of two, `mxfp4`, with the same values.
    MicroScaled,
    /// As f16, since these types share a scale between 16 elements, and MLX between 32 at least. f16 rounds a value by
    /// at most 2^-12 of itself, bf16 would by 2^-9; weights are far from f16's limits, and those beyond are refused.
    Dequantized,
}

impl TensorType {
    /// The type with this number in the file format.
    pub(crate) fn of_number(number: u32, tensor: &str) -> Result<Self, GgufError> {
        Ok(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            30 => Self::Bf16,
            39 => Self::Mxfp4,
            other => {
                return Err(GgufError::Unsupported(format!(
                    "tensor `{tensor}` has type {}, which cannot be imported; use a file with Q2_K to Q6_K, Q4_0 to \
                     Q8_0, MXFP4, F16, BF16 or F32 tensors, or the original safetensors",
                    unknown_name(other)
                )));
            }
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// What is stored for it.
    pub(crate) fn form(self) -> Form {
        let affine = |bits, scales| Form::Affine { bits, scales };
        match self {
            Self::F32 => Form::Dense(Dtype::F32),
            Self::F16 => Form::Dense(Dtype::F16),
            Self::Bf16 => Form::Dense(Dtype::BF16),
            Self::Q4_0 | Self::Q4_1 => affine(4, Dtype::F16),
            Self::Q5_0 | Self::Q5_1 => affine(5, Dtype::F16),
            Self::Q8_0 => affine(8, Dtype::F16),
            Self::Q4_K => affine(4, Dtype::F32),
            Self::Q5_K => affine(5, Dtype::F32),
            Self::Mxfp4 => Form::MicroScaled,
            Self::Q2_K | Self::Q3_K | Self::Q6_K => Form::Dequantized,
        }
    }

    /// The type of elements that are stored densely; `None` for those stored in groups.
    pub(crate) fn dense_dtype(self) -> Option<Dtype> {
        match self.form() {
            Form::Dense(dtype) => Some(dtype),
            Form::Dequantized => Some(Dtype::F16),
            Form::Affine { .. } | Form::MicroScaled => None,
        }
    }

    /// Elements and bytes of a block; a dense element is a block of its own.
    pub(crate) fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (GROUP, 2 + 16),
            Self::Q4_1 => (GROUP, 4 + 16),
            Self::Q5_0 => (GROUP, 2 + 4 + 16),
            Self::Q5_1 => (GROUP, 4 + 4 + 16),
            Self::Q8_0 => (GROUP, 2 + 32),
            Self::Q2_K => (SUPERBLOCK, 16 + 64 + 4),
            Self::Q3_K => (SUPERBLOCK, 32 + 64 + 12 + 2),
            Self::Q4_K => (SUPERBLOCK, 4 + 12 + 128),
            Self::Q5_K => (SUPERBLOCK, 4 + 12 + 32 + 128),
            Self::Q6_K => (SUPERBLOCK, 128 + 64 + 16 + 2),
            Self::Mxfp4 => (GROUP, 1 + 16),
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
}

/// Names of types that can't be imported, for the error.
fn unknown_name(number: u32) -> String {
    let name = match number {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        40 => "NVFP4",
        other => return format!("number {other}"),
    };
    format!("{name} (number {number})")
}
