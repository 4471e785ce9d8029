//! A block's attention, of whichever kind.

use mlx_rs::{Array, error::Exception};

use super::{Attention, LatentAttention};
use crate::backend::{AttentionSpec, StepMemory};

/// `residual + factor * after(attention(before(x)))`.
pub(super) enum SelfAttention {
    /// Keys and values of heads.
    Grouped(Box<Attention>),
    /// A latent vector that all heads share.
    Latent(Box<LatentAttention>),
}

impl SelfAttention {
    /// What distinguishes it from other layers' attention.
    pub(super) fn spec(&self) -> &AttentionSpec {
        match self {
            Self::Grouped(attention) => attention.spec(),
            Self::Latent(attention) => attention.spec(),
        }
    }

    /// `x`, `residual` (which mostly is `x`) and the result: `[tokens, hidden]`. Appends the tokens' keys and values; lazy.
    pub(super) fn forward(
        &self,
        x: &Array,
        residual: &Array,
        step: &StepMemory<'_>,
    ) -> Result<Array, Exception> {
        match self {
            Self::Grouped(attention) => attention.forward(x, residual, step),
            Self::Latent(attention) => attention.forward(x, residual, step),
        }
    }
}
