//! The parts that models are built of. A file in `arch` imports only this module; what it needs of the rest of `model` is
//! re-exported here.
//!
//! A layer decides what is computed and asks its [`Backend`](crate::backend::Backend) to compute it: the layer says where
//! a normalization or a residual stands, and the backend fuses what it can.

mod attention;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod rope;

pub(super) use attention::{Attention, AttentionParams};
pub(super) use embedding::Embedding;
pub(super) use linear::{FusedLinear, load_matrix};
pub(super) use mlp::{Mlp, MlpParams};
pub(super) use norm::{RmsNorm, SublayerNorms};
#[cfg(test)]
pub(super) use rope::inv_freq;
pub(super) use rope::load_rope;

pub(super) use super::{
    Architecture, ModelError,
    config::{DecoderConfig, RopeConfig, RopeScaling},
    weights::Weights,
};
pub(super) use crate::backend::{AttentionSpec, StepMemory};
