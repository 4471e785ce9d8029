//! Decoders of the usual build: an embedding, blocks of attention and a feed-forward network, a normalization and an output
//! head. A [`DecoderPlan`] says in what they differ.

use mlx_rs::{Array, error::Exception};

use super::{
    Architecture, Attention, AttentionParams, BlockNames, DecoderConfig, Embedding, FusedLinear, Mixer, Mlp,
    MlpParams, ModelError, Moe, MoePlan, NormParams, Normalization, QkNorm, RecurrentPlan, StateParts,
    SublayerNorms, Weights, load_matrix, load_rope,
};
use crate::backend::{AttentionSpec, Backend, Gate, Rowwise, StateGeometry, StepMemory};

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
    /// Of queries, keys and values.
    pub(in crate::model) qkv_bias: bool,
    /// Of attention's output.
    pub(in crate::model) output_bias: bool,
    pub(in crate::model) mlp_bias: bool,
    /// Whether queries, keys and values are stored as one matrix.
    pub(in crate::model) fused_qkv: bool,
    /// Whether each head of queries has a gate of attention's results behind it.
    pub(in crate::model) gated_attention: bool,
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
    states: StateGeometry,
    /// The last normalization, then the output head.
    head: FusedLinear,
    logit_factor: f32,
    logit_cap: Option<f32>,
    backend: Backend,
}

struct Block {
    /// Of attention and feed-forward network, if they are parallel.
    before: Option<Normalization>,
    mixer: Mixer,
    mlp: FeedForward,
}

enum FeedForward {
    Dense(Box<Mlp>),
    Sparse(Box<Moe>),
}

/// What is counted while blocks are loaded.
#[derive(Default)]
struct Loading {
    /// Layers with attention so far.
    attention: usize,
    states: StateParts,
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
            qkv_bias: config.attention_bias,
            output_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
            fused_qkv: false,
            gated_attention: false,
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

    /// Takes the weights.
    pub(in crate::model) fn load(
        self,
        config: DecoderConfig,
        weights: &mut Weights<'_>,
    ) -> Result<Box<dyn Architecture>, ModelError> {
        let mut loading = Loading::default();
        let block = |layer| Block::load(&config, &self, layer, (&mut *weights, &mut loading));
        let blocks = (0..config.layers()).map(block).collect::<Result<_, _>>()?;
        let shape = [config.vocab_size, config.hidden_size];
        let embed_tokens = Embedding::load(weights, "model.embed_tokens", shape, self.embedding_factor)?;
        let norm = Normalization::load(weights, self.names.last_norm, config.hidden_size, self.norm)?;
        let tied = config.tie_word_embeddings.unwrap_or_else(|| !weights.contains("lm_head.weight"));
        let head = if tied { embed_tokens.head() } else { load_matrix(weights, "lm_head", shape, false)? };
        // Older files carry tables that follow from the configuration, and a copy of a tied head.
        weights
            .ignore(|name| name.ends_with(".rotary_emb.inv_freq") || (tied && name.starts_with("lm_head.")));
        let head = FusedLinear::new(Some(norm), vec![head], weights);
        let (logit_factor, logit_cap, backend) = (self.logit_factor, self.logit_cap, weights.backend());
        let states = loading.states.finish();
        Ok(Box::new(Decoder { config, embed_tokens, blocks, states, head, logit_factor, logit_cap, backend }))
    }
}

impl Block {
    fn load(
        config: &DecoderConfig,
        plan: &DecoderPlan,
        layer: usize,
        (weights, loading): (&mut Weights<'_>, &mut Loading),
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
        let mixer = load_mixer(config, plan, layer, (&mut *weights, loading), attention_norms)?;
        let mlp = FeedForward::load(config, plan, layer, (weights, mlp_norms))?;
        Ok(Self { before, mixer, mlp })
    }

    /// `x` and the result: `[tokens, hidden]`.
    fn forward(&self, x: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let Some(before) = &self.before else {
            let attended = self.mixer.forward(x, x, step)?;
            return self.mlp.forward(&attended, &attended);
        };
        let normed = before.forward(x)?;
        self.mlp.forward(&normed, &self.mixer.forward(&normed, x, step)?)
    }
}

/// A layer's attention, or what stands in its place.
fn load_mixer(
    config: &DecoderConfig,
    plan: &DecoderPlan,
    layer: usize,
    (weights, loading): (&mut Weights<'_>, &mut Loading),
    norms: SublayerNorms,
) -> Result<Mixer, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    if let Some(Some(recurrent)) = plan.recurrent.get(layer) {
        return recurrent.load(
            weights,
            &name(plan.names.recurrent),
            config.hidden_size,
            norms,
            &mut loading.states,
        );
    }
    let params = AttentionParams {
        spec: plan.attention[layer].clone(),
        layer: loading.attention,
        hidden_size: config.hidden_size,
        qkv_bias: plan.qkv_bias,
        output_bias: plan.output_bias,
        fused: plan.fused_qkv,
        gated: plan.gated_attention,
        qk_norm: plan.qk_norm.map(|of| (of, plan.norm)),
        residual_factor: plan.residual_factor,
        output_name: plan.names.attention_output,
        norm_names: plan.names.qk_norms,
    };
    loading.attention += 1;
    let attention = Attention::load(weights, &name(plan.names.attention), params, norms)?;
    Ok(Mixer::Attention(Box::new(attention)))
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
            parts: plan.names.mlp_parts,
        };
        Mlp::load(weights, &format!("{name}.{}", plan.names.mlp), &params, norms)
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
        self.blocks.iter().filter_map(|block| block.mixer.attention()).collect()
    }

    fn states(&self) -> StateGeometry {
        self.states.clone()
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
