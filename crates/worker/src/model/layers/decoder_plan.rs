//! In what decoders differ.

use super::{
    BesideNorms, BlockNames, DecoderConfig, LatentPlan, LayerInputsPlan, ModelError, MoePlan, NormParams,
    QkNorm, RecurrentPlan, load_rope,
};
use crate::backend::{AttentionSpec, Gate};

/// Names of a block's normalizations below the layer's name; what has none is not normalized.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) enum BlockNorms {
    /// Attention, then the feed-forward network, each with a residual connection.
    InTurn {
        attention_before: Option<&'static str>,
        attention_after: Option<&'static str>,
        mlp_before: Option<&'static str>,
        mlp_after: Option<&'static str>,
    },
    /// Both of the same normalized input; their results are added to the residual stream.
    Parallel { before: &'static str },
}

/// Everything in which decoders differ beside their sizes.
#[derive(Debug, Clone)]
pub(in crate::model) struct DecoderPlan {
    pub(in crate::model) names: BlockNames,
    /// Of each layer.
    pub(in crate::model) attention: Vec<AttentionSpec>,
    /// What layers have in its place; those beyond the list, attention.
    pub(in crate::model) recurrent: Vec<Option<RecurrentPlan>>,
    pub(in crate::model) norm: NormParams,
    pub(in crate::model) block_norms: BlockNorms,
    pub(in crate::model) qk_norm: Option<QkNorm>,
    /// In place of heads of keys and values.
    pub(in crate::model) latent: Option<LatentPlan>,
    /// Of queries, keys and values.
    pub(in crate::model) qkv_bias: bool,
    /// Of attention's output.
    pub(in crate::model) output_bias: bool,
    /// Of the feed-forward network; that of experts is in their plan.
    pub(in crate::model) mlp_bias: bool,
    /// Whether each head has a learned score in its softmax that no key belongs to.
    pub(in crate::model) sinks: bool,
    /// Whether queries, keys and values are stored as one matrix.
    pub(in crate::model) fused_qkv: bool,
    /// Of each layer, whether the matrix of keys is that of values, too; not of layers beyond the list.
    pub(in crate::model) values_are_keys: Vec<bool>,
    /// Whether each head of queries has a gate of attention's results behind it.
    pub(in crate::model) gated_attention: bool,
    /// Whether gate and up are.
    pub(in crate::model) fused_gate_up: bool,
    pub(in crate::model) gate: Gate,
    /// In place of a feed-forward network, in the layers where [`sparse`](Self::sparse) says so.
    pub(in crate::model) experts: Option<MoePlan>,
    /// Of each layer.
    pub(in crate::model) sparse: Vec<bool>,
    /// The feed-forward network is there as well, beside the experts.
    pub(in crate::model) beside: Option<BesideNorms>,
    /// Inner size of each layer's feed-forward network; of layers beyond the list, that of the configuration.
    pub(in crate::model) intermediate_sizes: Vec<i32>,
    /// What layers are told of a token behind their feed-forward networks.
    pub(in crate::model) layer_inputs: Option<LayerInputsPlan>,
    /// Whether each layer's result has a learned factor.
    pub(in crate::model) layer_scalars: bool,
    pub(in crate::model) embedding_factor: f32,
    /// Of what a sublayer adds to the residual stream.
    pub(in crate::model) residual_factor: f32,
    pub(in crate::model) logit_factor: f32,
    /// Logits become `cap * tanh(logit / cap)`.
    pub(in crate::model) logit_cap: Option<f32>,
}

impl DecoderPlan {
    /// As Llama has it: every layer sees all tokens and rotates as the configuration says, normalizations stand before the
    /// sublayers.
    pub(in crate::model) fn new(config: &DecoderConfig) -> Self {
        let rope = load_rope(&config.rope, config.heads.dim, config.max_position_embeddings);
        let spec = AttentionSpec {
            query_scale: config.rope.query_scale.map(|scale| std::rc::Rc::new(scale.table())),
            ..AttentionSpec::causal(config.heads, Some(rope))
        };
        Self {
            names: BlockNames::LLAMA,
            attention: vec![spec; config.layers()],
            recurrent: Vec::new(),
            norm: NormParams::rms(config.rms_norm_eps),
            block_norms: BlockNorms::InTurn {
                attention_before: Some("input_layernorm"),
                attention_after: None,
                mlp_before: Some("post_attention_layernorm"),
                mlp_after: None,
            },
            qk_norm: None,
            latent: None,
            qkv_bias: config.attention_bias,
            output_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
            sinks: false,
            fused_qkv: false,
            values_are_keys: Vec::new(),
            gated_attention: false,
            fused_gate_up: false,
            gate: Gate::Silu,
            experts: None,
            sparse: vec![false; config.layers()],
            beside: None,
            intermediate_sizes: Vec::new(),
            layer_inputs: None,
            layer_scalars: false,
            embedding_factor: 1.0,
            residual_factor: 1.0,
            logit_factor: 1.0,
            logit_cap: None,
        }
    }

    /// The same with a window for each layer, or none.
    pub(in crate::model) fn with_windows(mut self, windows: Vec<Option<i32>>) -> Self {
        for (spec, window) in self.attention.iter_mut().zip(windows) {
            spec.window = window;
        }
        self
    }

    /// Layers by their index.
    pub(in crate::model) fn layers(&mut self) -> impl Iterator<Item = (usize, &mut AttentionSpec)> {
        self.attention.iter_mut().enumerate()
    }

    /// Refuses what layers with experts would leave out.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        if self.experts.is_none() || !self.sparse.contains(&true) {
            return Ok(());
        }
        let after = matches!(self.block_norms, BlockNorms::InTurn { mlp_after: Some(_), .. });
        let after = after && self.beside.is_none();
        let refused = [
            (after, "a normalization behind them"),
            (self.residual_factor != 1.0, "a factor of what they add to the residual stream"),
            (self.mlp_bias, "biases"),
        ];
        match refused.into_iter().find(|(is_asked_for, _)| *is_asked_for) {
            Some((_, what)) => Err(ModelError::UnsupportedExperts { what }),
            None => Ok(()),
        }
    }
}
