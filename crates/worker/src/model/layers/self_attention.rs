//! A block's attention, of whichever kind.

use mlx_rs::{Array, error::Exception};

use super::{
    Attention, AttentionParams, DecoderConfig, DecoderPlan, LatentAttention, ModelError, QkNorm,
    SublayerNorms, Weights,
};
use crate::backend::{AttentionSpec, StepMemory};

/// `residual + factor * after(attention(before(x)))`.
pub(super) enum SelfAttention {
    /// Keys and values of heads.
    Grouped(Box<Attention>),
    /// A latent vector that all heads share.
    Latent(Box<LatentAttention>),
}

impl SelfAttention {
    /// Takes the weights of a layer, below `name`.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        (config, plan, layer): (&DecoderConfig, &DecoderPlan, usize),
        norms: SublayerNorms,
    ) -> Result<Self, ModelError> {
        let spec = plan.attention[layer].clone();
        let (hidden_size, residual_factor) = (config.hidden_size, plan.residual_factor);
        if let Some(latent) = plan.latent {
            let kind = (latent, spec, layer);
            let loaded = LatentAttention::load(weights, name, kind, (hidden_size, residual_factor), norms)?;
            return Ok(Self::Latent(Box::new(loaded)));
        }
        // A rotation does not change what heads without weights are normalized by.
        let is_normed = |of: &QkNorm| *of != QkNorm::Unweighted || spec.rope.is_some();
        let qk_norm = plan.qk_norm.filter(is_normed).map(|of| (of, plan.norm));
        let params = AttentionParams {
            spec,
            layer,
            hidden_size,
            qkv_bias: plan.qkv_bias,
            output_bias: plan.output_bias,
            sinks: plan.sinks,
            fused: plan.fused_qkv,
            qk_norm,
            residual_factor,
        };
        Attention::load(weights, name, params, norms).map(Box::new).map(Self::Grouped)
    }

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
