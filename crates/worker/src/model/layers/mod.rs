//! Layers: the parts of which architectures build models.
//!
//! A layer decides what is computed and asks its [`Backend`](crate::backend::Backend) to compute it: the layer says where
//! a normalization or a residual stands, and the backend fuses what it can.
//!
//! A file in `arch` imports this module and MLX's array type, and nothing else: what it needs of the rest of `model` is
//! re-exported below. The files here import `crate::backend` and, through `super`, the same.

mod attention;
mod beside;
mod decoder;
mod decoder_plan;
mod delta_net;
mod dense;
mod embedding;
mod encoder;
mod feed_forward;
mod latent_attention;
mod layer_inputs;
mod linear;
mod mixer;
mod mlp;
mod modern_encoder;
mod moe;
mod names;
mod norm;
mod rope;
mod short_conv;
mod states;

use attention::{Attention, AttentionParams};
pub(super) use beside::BesideNorms;
use beside::MlpBesideExperts;
pub(super) use decoder_plan::{BlockNorms, DecoderPlan};
use delta_net::DeltaNet;
pub(super) use delta_net::{DeltaInputs, DeltaNetPlan};
pub(super) use dense::DenseModules;
use embedding::Embedding;
pub(super) use encoder::EncoderPlan;
use latent_attention::LatentAttention;
pub(super) use latent_attention::LatentPlan;
pub(super) use layer_inputs::LayerInputsPlan;
use layer_inputs::{LayerInput, LayerInputs};
use linear::{FusedLinear, load_matrices, load_matrix};
use mixer::Mixer;
pub(super) use mixer::RecurrentPlan;
use mlp::{Mlp, MlpParams};
pub(super) use modern_encoder::load_modern_encoder;
use moe::Moe;
pub(super) use moe::{MoeNames, MoePlan, RouterNorm, SharedExpert};
pub(super) use names::BlockNames;
pub(super) use norm::{NormParams, QkNorm};
use norm::{Normalization, SublayerNorms};
#[cfg(test)]
pub(super) use rope::inv_freq;
pub(super) use rope::load_rope;
use short_conv::ShortConv;
pub(super) use short_conv::ShortConvPlan;
pub(super) use states::is_of_transformers;
use states::{StateParts, load_kernel};

pub(super) use crate::backend::{
    AttentionSpec, DeltaHeads, Gate, Groups, Heads, KvSource, RoutingRule, Scores,
};

pub(super) use super::{
    Architecture, Encoder, EncoderInput, ModelError,
    adapters::Site,
    config::{
        DecoderConfig, Defaults, EncoderConfig, ModernEncoderConfig, QueryScaleConfig, RopeConfig,
        RopeScaling, Settings, WindowRule, full_heads, gelu_gate, layer_kinds, layer_windows, mixed_windows,
        own_layers,
    },
    weights::{Packing, Weights},
};
