//! Taking weights as they are stored.

use std::ops::Range;

use mlx_ext::MicroScaling;
use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{dequantize, indexing::TryIndexOp},
};

use super::{
    Backend, ExpertSizes, Experts, Kernels, Matrix, Norm, NormKind, Storage, StoredExperts, cpu, experts, mlx,
};

impl Backend {
    /// What the kernels can read of what is stored. It may take more memory.
    pub(crate) fn readable(self, storage: Storage) -> Result<Storage, Exception> {
        match storage {
            Storage::MicroScaled { format: MicroScaling::Mxfp8 | MicroScaling::Nvfp4, .. }
                if self.kernels.are_cpu() =>
            {
                mlx::widened(storage)
            }
            others => Ok(others),
        }
    }

    /// Takes a matrix as it is [readable](Self::readable), with an optional bias `[outputs]`.
    pub(crate) fn matrix(self, storage: Storage, bias: Option<Array>) -> Result<Matrix, Exception> {
        let storage = if self.kernels == Kernels::MlxFloat32 { mlx::expanded(storage)? } else { storage };
        let bias = bias.map(|bias| bias.as_dtype(self.dtype)).transpose()?;
        Ok(Matrix { storage, bias, origin: None, dtype: self.dtype })
    }

    /// Takes an adapter's two matrices, float32: what the first one gives stays in that type, as mlx-lm has it.
    pub(crate) fn low_rank(self, [down, up]: [Array; 2]) -> [Matrix; 2] {
        [(down, Dtype::Float32), (up, self.dtype)].map(|(weight, dtype)| Matrix {
            storage: Storage::Dense(weight),
            bias: None,
            origin: None,
            dtype,
        })
    }

    /// Takes the weights of a normalization, `[width]`, as they are stored.
    pub(crate) fn norm(
        self,
        kind: NormKind,
        weight: &Array,
        bias: Option<&Array>,
        eps: f32,
    ) -> Result<Norm, Exception> {
        let stored = weight.as_dtype(self.dtype)?;
        let weight = match kind {
            NormKind::RmsPlusOne => stored.add(Array::from_f32(1.0).as_dtype(self.dtype)?)?,
            NormKind::Rms | NormKind::Layer => stored,
        };
        let bias = bias.map(|bias| bias.as_dtype(self.dtype)).transpose()?;
        Ok(Norm { kind, weight, bias, eps })
    }

    /// Bytes of copies that [`experts`](Self::experts) makes.
    pub(crate) fn copied_experts(self, stored: &[StoredExperts; 3]) -> u64 {
        if self.kernels.are_cpu() { 0 } else { stored.iter().map(StoredExperts::stacking_bytes).sum() }
    }

    /// Takes gates, ups and downs of a layer's experts.
    pub(crate) fn experts(
        self,
        stored: [StoredExperts; 3],
        sizes: ExpertSizes,
    ) -> Result<Experts, Exception> {
        if self.kernels.are_cpu() {
            return cpu::CpuExperts::new(stored, sizes).map(Experts::Cpu);
        }
        experts::stacked(stored, |storage, bias| self.matrix(storage, bias)).map(Experts::Mlx)
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
