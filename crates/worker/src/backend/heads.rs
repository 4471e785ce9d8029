//! Products of a token's heads, each with a matrix of its own.

use std::ops::Range;

use mlx_rs::{
    Array,
    error::Exception,
    ops::{dequantize, indexing::TryIndexOp},
};

use super::{Backend, Kernels, Matrix, Storage, cpu, mlx};

/// Of each head: some of its values as they are, then the product of some of them with rows of the head's own matrix.
#[derive(Debug, Clone)]
pub(crate) struct HeadProducts<'a> {
    /// `[tokens, heads * width]`.
    pub(crate) x: &'a Array,
    pub(crate) heads: i32,
    /// Which of a head's values are copied; may be empty.
    pub(crate) copied: Range<i32>,
    /// Which of them meet the matrix.
    pub(crate) inputs: Range<i32>,
    /// `[heads * n, inputs]`, of each head `n` rows, without a bias.
    pub(crate) matrix: &'a Matrix,
    /// Which of a head's `n` rows are used.
    pub(crate) rows: Range<i32>,
}

impl Backend {
    /// `[tokens, heads * (copied + used rows)]`; lazy.
    pub(crate) fn head_products(self, job: &HeadProducts<'_>) -> Result<Array, Exception> {
        match self.kernels {
            Kernels::Cpu => cpu::head_products(job, false),
            Kernels::CpuInt8 => cpu::head_products(job, true),
            Kernels::Mlx | Kernels::MlxFloat32 => mlx::head_products(job),
        }
    }

    /// Of `[heads * n, inputs]` as it is stored, the `rows` of each head, transposed: `[heads * inputs, rows]`, evaluated. It
    /// takes memory, and what is packed is expanded.
    pub(crate) fn transposed_heads(
        self,
        storage: &Storage,
        heads: i32,
        rows: Range<i32>,
    ) -> Result<Storage, Exception> {
        let values = match storage {
            Storage::Dense(weight) => weight.clone(),
            Storage::Affine { packed, scales, biases, group_size, bits } => {
                // Nothing is lost to float32.
                let (scales, biases) = (scales.as_dtype(self.dtype)?, biases.as_dtype(self.dtype)?);
                dequantize(packed, scales, &biases, *group_size, *bits)?
            }
            Storage::MicroScaled { packed, scales, format } => {
                format.dequantize(packed, scales, self.dtype)?
            }
        };
        let inputs = values.dim(-1);
        let of_heads = values.reshape(&[heads, -1, inputs])?.try_index((.., rows.clone(), ..))?;
        let turned = of_heads.swap_axes(1, 2)?.reshape(&[heads * inputs, rows.end - rows.start])?;
        let turned = turned.contiguous()?;
        turned.eval()?;
        Ok(Storage::Dense(turned))
    }
}

#[cfg(test)]
mod tests;
