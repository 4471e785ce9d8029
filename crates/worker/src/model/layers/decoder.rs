//! Decoders of the usual build: an embedding, blocks of attention and a feed-forward network, a normalization and an output
//! head. A [`DecoderPlan`] says in what they differ.

use mlx_rs::{Array, error::Exception};

use super::{
    Architecture, Attention, AttentionParams, DecoderConfig, Embedding, FusedLinear, LatentAttention,
    LatentPlan, Mlp, MlpParams, ModelError, Moe, MoePlan, NormParams, Normalization, QkNorm, SelfAttention,
    SublayerNorms, Weights, load_matrix, load_rope,
};
use crate::backend::{AttentionSpec, Backend, Gate, Rowwise, StepMemory};

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
    /// Of each layer.
    pub(in crate::model) attention: Vec<AttentionSpec>,
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
    /// Of the feed-forward network, below the layer's name.
    pub(in crate::model) mlp_name: &'static str,
    /// Whether each head has a learned score in its softmax that no key belongs to.
    pub(in crate::model) sinks: bool,
    /// Whether queries, keys and values are stored as one matrix.
    pub(in crate::model) fused_qkv: bool,
    /// Whether gate and up are.
    pub(in crate::model) fused_gate_up: bool,
    pub(in crate::model) gate: Gate,
    /// In place of a feed-forward network, in the layers where [`sparse`](Self::sparse) says so.
    pub(in crate::model) experts: Option<MoePlan>,
    /// Of each layer.
    pub(in crate::model) sparse: Vec<bool>,
    pub(in crate::model) embedding_factor: f32,
    /// Of what a sublayer adds to the residual stream.
    pub(in crate::model) residual_factor: f32,
    pub(in crate::model) logit_factor: f32,
    /// Logits become `cap * tanh(logit / cap)`.
    pub(in crate::model) logit_cap: Option<f32>,
}

/// The model.
pub(in crate::model) struct Decoder {
    config: DecoderConfig,
    embed_tokens: Embedding,
    blocks: Vec<Block>,
    /// The last normalization, then the output head.
    head: FusedLinear,
    logit_factor: f32,
    logit_cap: Option<f32>,
    backend: Backend,
}

struct Block {
    /// Of attention and feed-forward network, if they are parallel.
    before: Option<Normalization>,
    self_attn: SelfAttention,
    mlp: FeedForward,
}

enum FeedForward {
    Dense(Box<Mlp>),
    Sparse(Box<Moe>),
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
            attention: vec![spec; config.layers()],
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
            mlp_name: "mlp",
            sinks: false,
            fused_qkv: false,
            fused_gate_up: false,
            gate: Gate::Silu,
            experts: None,
            sparse: vec![false; config.layers()],
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
    fn check(&self) -> Result<(), ModelError> {
        if self.experts.is_none() || !self.sparse.contains(&true) {
            return Ok(());
        }
        let after = matches!(self.block_norms, BlockNorms::InTurn { mlp_after: Some(_), .. });
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

    /// Takes the weights.
    pub(in crate::model) fn load(
        self,
        config: DecoderConfig,
        weights: &mut Weights<'_>,
    ) -> Result<Box<dyn Architecture>, ModelError> {
        self.check()?;
        let block = |layer| Block::load(&config, &self, layer, weights);
        let blocks = (0..config.layers()).map(block).collect::<Result<_, _>>()?;
        let shape = [config.vocab_size, config.hidden_size];
        let embed_tokens = Embedding::load(weights, "model.embed_tokens", shape, self.embedding_factor)?;
        let norm = Normalization::load(weights, "model.norm", config.hidden_size, self.norm)?;
        let tied = config.tie_word_embeddings.unwrap_or_else(|| !weights.contains("lm_head.weight"));
        let head = if tied { embed_tokens.head() } else { load_matrix(weights, "lm_head", shape, false)? };
        // Older files carry tables that follow from the configuration, and a copy of a tied head.
        weights
            .ignore(|name| name.ends_with(".rotary_emb.inv_freq") || (tied && name.starts_with("lm_head.")));
        let head = FusedLinear::new(Some(norm), vec![head], weights);
        let (logit_factor, logit_cap, backend) = (self.logit_factor, self.logit_cap, weights.backend());
        Ok(Box::new(Decoder { config, embed_tokens, blocks, head, logit_factor, logit_cap, backend }))
    }
}

impl Block {
    fn load(
        config: &DecoderConfig,
        plan: &DecoderPlan,
        layer: usize,
        weights: &mut Weights<'_>,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut norm = |part: Option<&str>| {
            let load = |part| Normalization::load(weights, &name(part), config.hidden_size, plan.norm);
            part.map(load).transpose()
        };
        let (before, attention_norms, mlp_norms) = match plan.block_norms {
            BlockNorms::Parallel { before } => {
                (norm(Some(before))?, SublayerNorms::default(), SublayerNorms::default())
            }
            BlockNorms::InTurn { attention_before, attention_after, mlp_before, mlp_after } => (
                None,
                SublayerNorms { before: norm(attention_before)?, after: norm(attention_after)? },
                SublayerNorms { before: norm(mlp_before)?, after: norm(mlp_after)? },
            ),
        };
        let self_attn = load_attention((config, plan, layer), (weights, attention_norms))?;
        let mlp = FeedForward::load(config, plan, layer, (weights, mlp_norms))?;
        Ok(Self { before, self_attn, mlp })
    }

    /// `x` and the result: `[tokens, hidden]`.
    fn forward(&self, x: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let Some(before) = &self.before else {
            let attended = self.self_attn.forward(x, x, step)?;
            return self.mlp.forward(&attended, &attended);
        };
        let normed = before.forward(x)?;
        self.mlp.forward(&normed, &self.self_attn.forward(&normed, x, step)?)
    }
}

/// Takes the weights of a layer's attention.
fn load_attention(
    (config, plan, layer): (&DecoderConfig, &DecoderPlan, usize),
    (weights, norms): (&mut Weights<'_>, SublayerNorms),
) -> Result<SelfAttention, ModelError> {
    let name = format!("model.layers.{layer}.self_attn");
    let spec = plan.attention[layer].clone();
    let (hidden_size, residual_factor) = (config.hidden_size, plan.residual_factor);
    if let Some(latent) = plan.latent {
        let kind = (latent, spec, layer);
        let loaded = LatentAttention::load(weights, &name, kind, (hidden_size, residual_factor), norms)?;
        return Ok(SelfAttention::Latent(Box::new(loaded)));
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
    Attention::load(weights, &name, params, norms).map(Box::new).map(SelfAttention::Grouped)
}

impl FeedForward {
    fn load(
        config: &DecoderConfig,
        plan: &DecoderPlan,
        layer: usize,
        (weights, norms): (&mut Weights<'_>, SublayerNorms),
    ) -> Result<Self, ModelError> {
        let name = format!("model.layers.{layer}");
        let experts = plan.experts.filter(|_| plan.sparse.get(layer) == Some(&true));
        if let Some(experts) = experts {
            let moe = Moe::load(weights, &name, (experts, config.hidden_size, plan.gate), norms.before)?;
            return Ok(Self::Sparse(Box::new(moe)));
        }
        let params = MlpParams {
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            bias: plan.mlp_bias,
            gate: plan.gate,
            fused: plan.fused_gate_up,
            residual_factor: plan.residual_factor,
        };
        Mlp::load(weights, &format!("{name}.{}", plan.mlp_name), &params, norms)
            .map(Box::new)
            .map(Self::Dense)
    }

    fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        match self {
            Self::Dense(mlp) => mlp.forward(x, residual),
            Self::Sparse(moe) => moe.forward(x, residual),
        }
    }
}

impl Architecture for Decoder {
    fn context_length(&self) -> u32 {
        self.config.max_position_embeddings.unsigned_abs()
    }

    fn vocab_size(&self) -> u32 {
        self.config.vocab_size.unsigned_abs()
    }

    fn attention(&self) -> Vec<&AttentionSpec> {
        self.blocks.iter().map(|block| block.self_attn.spec()).collect()
    }

    fn hidden(&self, tokens: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let mut x = self.embed_tokens.lookup(tokens)?;
        for block in &self.blocks {
            x = block.forward(&x, step)?;
        }
        Ok(x)
    }

    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        let logits = self.head.forward(hidden, None)?;
        if self.logit_factor == 1.0 && self.logit_cap.is_none() {
            return Ok(logits);
        }
        let (factor, soft_cap) = (self.logit_factor, self.logit_cap);
        self.backend.rowwise(&Rowwise { factor, soft_cap, ..Rowwise::of(&logits) })
    }
}
