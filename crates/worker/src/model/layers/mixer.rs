//! What lets a token of a sequence know of others: attention, or a layer that keeps a state.

use mlx_rs::{Array, error::Exception};

use super::{
    Attention, DeltaNet, DeltaNetPlan, LatentAttention, ModelError, ShortConv, ShortConvPlan, StateParts,
    SublayerNorms, Weights,
};
use crate::backend::{AttentionSpec, StepMemory};

/// In place of a layer's attention.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) enum RecurrentPlan {
    ShortConv(ShortConvPlan),
    DeltaNet(DeltaNetPlan),
}

/// Of one layer, with its residual connection.
pub(super) enum Mixer {
    /// Keys and values of heads.
    Attention(Box<Attention>),
    /// A latent vector that all heads share.
    Latent(Box<LatentAttention>),
    ShortConv(Box<ShortConv>),
    DeltaNet(Box<DeltaNet>),
}

impl RecurrentPlan {
    /// Takes the weights.
    pub(super) fn load(
        self,
        weights: &mut Weights<'_>,
        name: &str,
        hidden_size: i32,
        norms: SublayerNorms,
        states: &mut StateParts,
    ) -> Result<Mixer, ModelError> {
        let before = norms.before;
        match self {
            Self::ShortConv(plan) => ShortConv::load(weights, name, (plan, hidden_size), before, states)
                .map(Box::new)
                .map(Mixer::ShortConv),
            Self::DeltaNet(plan) => DeltaNet::load(weights, name, (plan, hidden_size), before, states)
                .map(Box::new)
                .map(Mixer::DeltaNet),
        }
    }
}

impl Mixer {
    /// The attention's, if it is that.
    pub(super) fn attention(&self) -> Option<&AttentionSpec> {
        match self {
            Self::Attention(attention) => Some(attention.spec()),
            Self::Latent(attention) => Some(attention.spec()),
            Self::ShortConv(_) | Self::DeltaNet(_) => None,
        }
    }

    /// `x`, `residual` (which mostly is `x`) and the result: `[tokens, hidden]`; lazy. Appends to what is kept of the rows.
    pub(super) fn forward(
        &self,
        x: &Array,
        residual: &Array,
        step: &StepMemory<'_>,
    ) -> Result<Array, Exception> {
        match self {
            Self::Attention(attention) => attention.forward(x, residual, step),
            Self::Latent(attention) => attention.forward(x, residual, step),
            Self::ShortConv(conv) => conv.forward(x, step),
            Self::DeltaNet(net) => net.forward(x, step),
        }
    }
}
