//! RMS normalization.

use mlx_rs::{Array, error::Exception};

use super::{ModelError, Weights};
use crate::backend::{Backend, Norm};

/// `x / rms(x) * weight`, over the last axis.
pub(in crate::model) struct RmsNorm {
    pub(super) norm: Norm,
    pub(super) backend: Backend,
}

/// The normalizations of a sublayer (attention or feed-forward network) with a residual connection:
/// `x + after(f(before(x)))`. What is absent is the identity.
#[derive(Default)]
pub(in crate::model) struct SublayerNorms {
    pub(in crate::model) before: Option<RmsNorm>,
    pub(in crate::model) after: Option<RmsNorm>,
}

impl RmsNorm {
    /// Takes `<name>.weight`, `[width]`.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        width: i32,
        eps: f32,
    ) -> Result<Self, ModelError> {
        let weight = weights.take_float(&format!("{name}.weight"), &[width])?;
        let backend = weights.backend();
        Ok(Self { norm: backend.norm(&weight, eps)?, backend })
    }

    /// `x` and the result: `[tokens, width]`; lazy. A normalization before a product belongs to the
    /// [`FusedLinear`](super::FusedLinear) instead.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.backend.rms_norm(x, &self.norm)
    }
}

impl SublayerNorms {
    /// Only before the sublayer.
    pub(in crate::model) fn pre(norm: RmsNorm) -> Self {
        Self { before: Some(norm), after: None }
    }
}
