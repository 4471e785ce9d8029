//! A feed-forward network and experts beside each other, with a residual connection.

use mlx_rs::{Array, error::Exception};

use super::{Mlp, Moe, Normalization};
use crate::backend::{Backend, Rowwise};

/// Names of normalizations below the layer's name, beside those of the sublayer.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct BesideNorms {
    /// Of what the network gives.
    pub(in crate::model) mlp_after: &'static str,
    /// Of what experts get, but not the router.
    pub(in crate::model) experts_before: &'static str,
    /// Of what they give.
    pub(in crate::model) experts_after: &'static str,
}

/// `residual + after(mlp_after(mlp(x)) + experts_after(experts(x)))`, where both normalize what they get.
pub(super) struct MlpBesideExperts {
    pub(super) mlp: Mlp,
    pub(super) mlp_after: Normalization,
    pub(super) experts: Moe,
    pub(super) experts_after: Normalization,
    pub(super) after: Normalization,
    pub(super) backend: Backend,
}

impl MlpBesideExperts {
    /// `x`, `residual` and the result: `[tokens, hidden]`; lazy.
    pub(super) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        let dense = self.mlp_after.forward(&self.mlp.product(x)?)?;
        let both = self.normed(&self.experts_after, &self.experts.product(x)?, &dense)?;
        self.normed(&self.after, &both, residual)
    }

    /// `residual + norm(x)`.
    fn normed(&self, norm: &Normalization, x: &Array, residual: &Array) -> Result<Array, Exception> {
        self.backend.rowwise(&Rowwise {
            norms: &[(&norm.norm, 1)],
            residual: Some(residual),
            ..Rowwise::of(x)
        })
    }
}
