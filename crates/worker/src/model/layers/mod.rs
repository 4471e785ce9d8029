//! The parts that models are built of.
//!
//! A layer decides what is computed and asks its [`Backend`](crate::backend::Backend) to compute it: the layer says where
//! a normalization or a residual stands, and the backend fuses what it can.
//!
//! A file in `arch` imports this module and MLX's array type, and nothing else: what it needs of the rest of `model` is
//! re-exported below. The files here import `crate::backend` and, through `super`, the same.

mod attention;
mod decoder;
mod embedding;
mod linear;
mod mlp;
mod moe;
mod norm;
mod rope;

use attention::{Attention, AttentionParams};
pub(super) use decoder::{BlockNorms, DecoderPlan};
use embedding::Embedding;
use linear::{FusedLinear, load_matrices, load_matrix};
use mlp::{Mlp, MlpParams};
use moe::Moe;
pub(super) use moe::{MoeNames, MoePlan};
pub(super) use norm::{NormParams, QkNorm};
use norm::{Normalization, SublayerNorms};
#[cfg(test)]
pub(super) use rope::inv_freq;
pub(super) use rope::load_rope;

pub(super) use super::{
    Architecture, ModelError,
    adapters::Site,
    config::{
        DecoderConfig, Defaults, QueryScaleConfig, RopeConfig, RopeScaling, Settings, WindowRule, gelu_gate,
        layer_windows,
    },
    weights::{Packing, Weights},
};
