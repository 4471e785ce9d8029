//! The size of a packed matrix, as the headers of its tensors tell.

use super::method::Method;
use crate::{Dtype, Quantization, weights::HeaderTensor};

/// Most inputs of a matrix: what is held of it at a time grows with them.
const MAX_INPUTS: u64 = 1 << 20;

/// The tensors of a matrix that tell its size.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) integers: &'a HeaderTensor,
    pub(crate) scales: &'a HeaderTensor,
    pub(crate) zeros: Option<&'a HeaderTensor>,
    /// Outputs and inputs, where a tensor has them.
    pub(crate) size: Option<[u64; 2]>,
}

/// A packed matrix without its contents. The tensors that told it have exactly the sizes that follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) method: Method,
    /// Their zeros take whole words, but for compressed-tensors'.
    pub(crate) outputs: u64,
    /// A multiple of the group size.
    pub(crate) inputs: u64,
    /// Of an integer.
    pub(crate) bits: u64,
    /// Inputs that share a scale: a multiple of 32.
    pub(crate) group: u64,
    /// Of the scales as they are stored.
    pub(crate) scales: Dtype,
    /// Whether zeros are stored; otherwise they are half of the integers' range.
    pub(crate) has_zeros: bool,
}

impl Shape {
    /// # Errors
    /// The tensors do not fit together, or what they say can't be converted.
    pub(crate) fn of(method: Method, tensors: Tensors<'_>) -> Result<Self, String> {
        if matches!(method, Method::Gptq { .. } | Method::Awq) && tensors.zeros.is_none() {
            return Err("it has no zeros (`qzeros`); download the model again".to_owned());
        }
        let types = [
            Some((tensors.integers, true)),
            Some((tensors.scales, false)),
            tensors.zeros.map(|it| (it, true)),
        ];
        for (tensor, of_words) in types.into_iter().flatten() {
            let taken = match tensor.dtype {
                Dtype::I32 | Dtype::U32 => of_words,
                Dtype::F32 | Dtype::F16 | Dtype::BF16 => !of_words,
                _ => false,
            };
            if !taken {
                return Err(format!("`{}` is of type {:?}", tensor.name, tensor.dtype));
            }
        }
        let shape = Self::told(method, tensors).ok_or_else(|| tensors.disagree())?;
        shape.check().map(|()| shape)
    }

    /// `None` if no shape has tensors of these sizes.
    fn told(method: Method, tensors: Tensors<'_>) -> Option<Self> {
        let [integers, scales] = [sides(tensors.integers)?, sides(tensors.scales)?];
        let zeros = match tensors.zeros {
            Some(zeros) => Some(sides(zeros)?),
            None => None,
        };
        let bits_in = |words: u64, integers: u64| quotient(words.checked_mul(32)?, integers);
        let (outputs, inputs, groups, bits) = match (method, zeros) {
            (Method::Gptq { .. }, Some(zeros)) => {
                let bits = bits_in(zeros[1], scales[1])?;
                (integers[1], quotient(integers[0].checked_mul(32)?, bits)?, scales[0], bits)
            }
            (Method::Awq, Some(_)) => (integers[1].checked_mul(8)?, integers[0], scales[0], 4),
            (Method::CompressedTensors, _) => {
                let [outputs, inputs] = tensors.size?;
                (outputs, inputs, scales[1], bits_in(integers[1], inputs)?)
            }
            _ => return None,
        };
        let shape = Self {
            method,
            outputs,
            inputs,
            bits,
            group: quotient(inputs, groups)?,
            scales: tensors.scales.dtype,
            has_zeros: zeros.is_some(),
        };
        let words = |integers: u64| quotient(integers.checked_mul(bits)?, 32);
        let [expected, of_scales, of_zeros] = match method {
            Method::Gptq { .. } => [[words(inputs)?, outputs], [groups, outputs], [groups, words(outputs)?]],
            Method::Awq => [[inputs, words(outputs)?], [groups, outputs], [groups, words(outputs)?]],
            Method::CompressedTensors => [
                [outputs, words(inputs)?],
                [outputs, groups],
                [outputs.checked_mul(bits)?.div_ceil(32), groups],
            ],
        };
        let fits = integers == expected && scales == of_scales && zeros.is_none_or(|zeros| zeros == of_zeros);
        fits.then_some(shape)
    }

    fn check(self) -> Result<(), String> {
        if !self.method.widths().contains(&self.bits) {
            return Err(format!("its integers have {} bits", self.bits));
        }
        if self.inputs > MAX_INPUTS {
            return Err(format!("it has {} inputs, more than {MAX_INPUTS}", self.inputs));
        }
        if self.stored_group().is_none() {
            return Err(format!(
                "{} of its inputs share a scale; MLX has groups of 32, 64 and 128",
                self.group
            ));
        }
        Ok(())
    }

    /// Groups of a row as the source has them.
    pub(crate) fn groups(self) -> u64 {
        self.inputs / self.group
    }

    /// Inputs of a group of MLX's: the largest that divides the source's, each part of which has the same scale and zero.
    pub(crate) fn stored_group(self) -> Option<u64> {
        let sizes = Quantization::GROUP_SIZES.into_iter().rev().map(u64::from);
        sizes.into_iter().find(|size| self.group.is_multiple_of(*size))
    }

    /// The zero where none is stored.
    pub(crate) fn middle(self) -> u32 {
        1 << (self.bits - 1)
    }
}

impl Tensors<'_> {
    fn disagree(&self) -> String {
        let parts = [Some(self.integers), Some(self.scales), self.zeros];
        let shown = |tensor: &HeaderTensor| format!("`{}` has shape {:?}", tensor.name, tensor.shape);
        let parts: Vec<_> = parts.into_iter().flatten().map(shown).collect();
        let size = self.size.map(|size| format!(", of a matrix of {size:?}")).unwrap_or_default();
        format!("its tensors do not fit together: {}{size}", parts.join(", "))
    }
}

/// Of a tensor with two dimensions, neither of which is 0.
fn sides(tensor: &HeaderTensor) -> Option<[u64; 2]> {
    <[u64; 2]>::try_from(&tensor.shape[..]).ok().filter(|sides| !sides.contains(&0))
}

/// `a / b` if that is whole and not 0.
fn quotient(a: u64, b: u64) -> Option<u64> {
    a.checked_div(b).filter(|&whole| whole > 0 && whole * b == a)
}
