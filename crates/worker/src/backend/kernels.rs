//! Which kernels compute.

use mlx_ext::Device;

/// What computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Primitives of this project, in float32: for the CPU.
    Cpu,
    /// The same, but activations are rounded to 8 bits instead of 16 before they meet weights of 4 bits: faster and less
    /// exact.
    CpuInt8,
    /// MLX's operations, in the model's own float type: for the GPU.
    Mlx,
    /// MLX's operations on weights expanded to float32: what the others are compared with.
    MlxFloat32,
}

impl Kernels {
    /// What is fastest on a device without loss of accuracy.
    pub fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Cpu,
            Device::Gpu => Self::Mlx,
        }
    }

    /// The same with activations of 8 bits, where there are such kernels.
    #[must_use]
    pub fn with_int8_activations(self) -> Self {
        match self {
            Self::Cpu => Self::CpuInt8,
            others => others,
        }
    }

    /// Whether they are this project's, for the CPU.
    pub(super) fn are_cpu(self) -> bool {
        matches!(self, Self::Cpu | Self::CpuInt8)
    }
}
