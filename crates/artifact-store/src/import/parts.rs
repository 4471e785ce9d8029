//! What rows of a tensor become: their elements and, where they are packed, scales and biases.

use half::{bf16, f16};
use safetensors::Dtype;

use crate::gguf::GgufError;

/// A tensor of the new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Elements,
    Scales,
    Biases,
}

/// Some rows, converted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) elements: Vec<u8>,
    pub(crate) scales: Vec<u8>,
    pub(crate) biases: Vec<u8>,
}

impl Parts {
    pub(super) fn take(&mut self, part: Part) -> Vec<u8> {
        std::mem::take(match part {
            Part::Elements => &mut self.elements,
            Part::Scales => &mut self.scales,
            Part::Biases => &mut self.biases,
        })
    }
}

/// Appends a scale or bias, which has to be a finite number in its type as well.
pub(super) fn push(out: &mut Vec<u8>, value: f32, dtype: Dtype) -> Result<(), GgufError> {
    let finite = match dtype {
        Dtype::F32 => {
            out.extend(value.to_le_bytes());
            value.is_finite()
        }
        Dtype::BF16 => {
            let value = bf16::from_f32(value);
            out.extend(value.to_le_bytes());
            value.is_finite()
        }
        _ => {
            let value = f16::from_f32(value);
            out.extend(value.to_le_bytes());
            value.is_finite()
        }
    };
    if finite { Ok(()) } else { Err(GgufError::NotFinite) }
}
