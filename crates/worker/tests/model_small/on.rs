//! What a test runs on: every backend, and every float type that a backend computes in.

use worker::model::{Kernels, Model, SequenceKv};

use super::tiny::{Float, Spec};

/// A backend, and the float type in which a model's weights are stored for it: MLX's operations compute in that type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct On {
    pub(crate) kernels: Kernels,
    /// `None`: as the test's model has it.
    pub(crate) float: Option<Float>,
}

#[cfg(target_os = "linux")]
pub(crate) const CPU: On = On { kernels: Kernels::Cpu, float: None };
#[cfg(target_os = "linux")]
pub(crate) const CPU_INT8: On = On { kernels: Kernels::CpuInt8, float: None };
pub(crate) const MLX_FLOAT32: On = On { kernels: Kernels::Mlx, float: Some(Float::F32) };
pub(crate) const MLX_FLOAT16: On = On { kernels: Kernels::Mlx, float: Some(Float::F16) };
pub(crate) const MLX_BFLOAT16: On = On { kernels: Kernels::Mlx, float: Some(Float::Bf16) };
pub(crate) const MLX_EXPANDED: On = On { kernels: Kernels::MlxFloat32, float: None };

/// Makes tests of functions that take an [`On`]: `cpu::name`, `mlx_bfloat16::name` and so on. On macOS MLX computes on
/// the GPU, elsewhere on the CPU; the primitives for the CPU are built on Linux only.
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        #[cfg(target_os = "linux")]
        mod cpu { $(#[test] fn $test() { super::$test($crate::on::CPU) })* }
        #[cfg(target_os = "linux")]
        mod cpu_int8 { $(#[test] fn $test() { super::$test($crate::on::CPU_INT8) })* }
        mod mlx_float32 { $(#[test] fn $test() { super::$test($crate::on::MLX_FLOAT32) })* }
        mod mlx_float16 { $(#[test] fn $test() { super::$test($crate::on::MLX_FLOAT16) })* }
        mod mlx_bfloat16 { $(#[test] fn $test() { super::$test($crate::on::MLX_BFLOAT16) })* }
        mod mlx_expanded { $(#[test] fn $test() { super::$test($crate::on::MLX_EXPANDED) })* }
    };
}
pub(crate) use on_every_backend;

impl On {
    /// The model with its floats stored as this backend is to compute.
    pub(crate) fn spec(self, spec: Spec) -> Spec {
        match self.float {
            Some(float) => Spec { dense: float, scales: float, norms: float, ..spec },
            None => spec,
        }
    }

    /// Whether it is one of two whose arithmetic all others share.
    pub(crate) fn tries_everything(self) -> bool {
        match self.kernels {
            Kernels::Cpu => true,
            Kernels::Mlx => self.float == Some(Float::F32),
            Kernels::CpuInt8 | Kernels::MlxFloat32 => false,
        }
    }

    /// Whether results do not depend, bit for bit, on what else is computed. MLX chooses kernels by the batch's size.
    pub(crate) fn is_exact(self) -> bool {
        matches!(self.kernels, Kernels::Cpu | Kernels::CpuInt8)
    }

    /// How far a logit may be from float64's; the root mean square of all differences may be a third of that. Logits are
    /// near 1 here, the largest near 4, after two layers of some five products each. What each backend was off by is half
    /// of this or less.
    fn tolerance(self, spec: &Spec) -> f64 {
        let float32 = 1e-4;
        let quantized = spec.quantization.is_some();
        match (self.kernels, self.spec(spec.clone()).activations()) {
            (Kernels::MlxFloat32, _) | (Kernels::Mlx, Float::F32) => float32,
            // Activations that meet quantized weights are rounded: by up to 2^-16 of a group's largest, or by 2^-8 of it
            // where weights have 4 bits.
            (Kernels::Cpu | Kernels::CpuInt8, _) if !quantized => float32,
            (Kernels::Cpu, _) => 20.0 * float32,
            (Kernels::CpuInt8, _) => 0.25,
            // Every result of an operation is rounded to eleven or to eight bits, some thirty on the way. On a CPU MLX also
            // adds up a product with quantized weights in that type; on a GPU it does so in float32.
            (Kernels::Mlx, Float::F16) => {
                if quantized {
                    0.1
                } else {
                    0.03
                }
            }
            (Kernels::Mlx, Float::Bf16) => {
                if quantized {
                    0.6
                } else {
                    0.2
                }
            }
        }
    }

    /// The same bits, where that is promised; within the rounding of this backend elsewhere.
    #[track_caller]
    pub(crate) fn same(self, spec: &Spec, found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        if self.is_exact() {
            let differs = found.iter().zip(expected).position(|(f, e)| f.to_bits() != e.to_bits());
            assert_eq!(differs, None, "of {spec:?} on {self:?}");
        } else {
            let expected: Vec<f64> = expected.iter().map(|&value| f64::from(value)).collect();
            self.agrees(spec, found, &expected);
        }
    }

    /// Logits near those of float64.
    #[track_caller]
    pub(crate) fn agrees(self, spec: &Spec, found: &[f32], expected: &[f64]) {
        let tolerance = self.tolerance(spec);
        let largest = super::largest_difference(found, expected);
        let squares = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).powi(2));
        let mean = (squares.sum::<f64>() / found.len() as f64).sqrt();
        assert!(largest < tolerance && mean < tolerance / 3.0, "{largest}, {mean} of {spec:?} on {self:?}");
    }
}

/// Runs one sequence's new tokens alone.
pub(crate) fn alone(model: &Model, kv: &mut SequenceKv, tokens: &[u32]) -> Vec<f32> {
    super::forward(model, vec![(kv, tokens)]).remove(0)
}
