//! Taking weights as they are stored.

use mlx_ext::MicroScaling;
use mlx_rs::{Array, Dtype, error::Exception};

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

    /// The same of an expert's.
    pub(crate) fn readable_by_experts(self, storage: Storage) -> Result<Storage, Exception> {
        // MLX's product of gathered matrices is called for affine packing only.
        if self.kernels.are_cpu() { self.readable(storage) } else { mlx::widened(storage) }
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

    /// Takes gates, ups and downs of a layer's experts.
    pub(crate) fn experts(
        self,
        stored: [StoredExperts; 3],
        sizes: ExpertSizes,
    ) -> Result<Experts, Exception> {
        if self.kernels.are_cpu() {
            return cpu::CpuExperts::new(stored, sizes).map(Experts::Cpu);
        }
        experts::stacked(stored, |storage| self.matrix(storage, None)).map(Experts::Mlx)
    }
}
