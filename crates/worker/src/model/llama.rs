//! `model_type` "llama": Llama 2 and 3, SmolLM2, and others of the same build.

use mlx_ext::cpu::KvShape;
use mlx_rs::{Array, Dtype, error::Exception};

use super::{
    Kernels, ModelError,
    args::ModelArgs,
    attention::{Heads, StepAttention},
    linear::{Embedding, Matrix, Norm, Projection, computed_in},
    rope::Rope,
    weights::Weights,
};

/// Grouped-query attention, behind a normalization and beside a bypass.
struct Attention {
    /// Normalization, then queries, keys and values.
    qkv_proj: Projection,
    o_proj: Projection,
}

impl Attention {
    fn load(
        args: &ModelArgs,
        weights: &mut Weights<'_>,
        name: &str,
        norm: Norm,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        let Heads { queries, kv, dim } = args.heads;
        let mut load = |part: &str, shape| {
            Matrix::load(weights, &format!("{name}.{part}"), shape, args.attention_bias, kernels)
        };
        let qkv = vec![
            load("q_proj", [queries * dim, args.hidden_size])?,
            load("k_proj", [kv * dim, args.hidden_size])?,
            load("v_proj", [kv * dim, args.hidden_size])?,
        ];
        let output = load("o_proj", [args.hidden_size, queries * dim])?;
        Ok(Self {
            qkv_proj: Projection::new(Some(norm), qkv, kernels),
            o_proj: Projection::new(None, vec![output], kernels),
        })
    }

    /// `x` and the result: `[tokens, hidden]`.
    fn forward(&self, x: &Array, layer: usize, step: &StepAttention<'_>) -> Result<Array, Exception> {
        let attended = step.attend(layer, &self.qkv_proj.forward(x, None)?)?;
        self.o_proj.forward(&attended, Some(x))
    }
}

/// Gated feed-forward network, behind a normalization and beside a bypass.
struct Mlp {
    /// Normalization, then `silu(gate) * up`.
    gate_up_proj: Projection,
    down_proj: Projection,
}

impl Mlp {
    fn load(
        args: &ModelArgs,
        weights: &mut Weights<'_>,
        name: &str,
        norm: Norm,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (args.hidden_size, args.intermediate_size);
        let mut load = |part: &str, shape| {
            Matrix::load(weights, &format!("{name}.{part}"), shape, args.mlp_bias, kernels)
        };
        let (gate, up) = (load("gate_proj", [inner, hidden])?, load("up_proj", [inner, hidden])?);
        let down = load("down_proj", [hidden, inner])?;
        Ok(Self {
            gate_up_proj: Projection::gated(norm, gate, up, kernels),
            down_proj: Projection::new(None, vec![down], kernels),
        })
    }

    /// `x` and the result: `[tokens, hidden]`.
    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.down_proj.forward(&self.gate_up_proj.forward(x, None)?, Some(x))
    }
}

/// Attention and feed-forward network.
struct TransformerBlock {
    self_attn: Attention,
    mlp: Mlp,
}

impl TransformerBlock {
    fn load(
        args: &ModelArgs,
        weights: &mut Weights<'_>,
        name: &str,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        let mut norm = |part: &str| {
            Norm::load(weights, &format!("{name}.{part}"), args.hidden_size, args.rms_norm_eps, kernels)
        };
        let (before_attention, before_mlp) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        Ok(Self {
            self_attn: Attention::load(
                args,
                weights,
                &format!("{name}.self_attn"),
                before_attention,
                kernels,
            )?,
            mlp: Mlp::load(args, weights, &format!("{name}.mlp"), before_mlp, kernels)?,
        })
    }

    fn forward(&self, x: &Array, layer: usize, step: &StepAttention<'_>) -> Result<Array, Exception> {
        self.mlp.forward(&self.self_attn.forward(x, layer, step)?)
    }
}

/// The model.
pub(super) struct Model {
    args: ModelArgs,
    embed_tokens: Embedding,
    layers: Vec<TransformerBlock>,
    rope: Rope,
    /// The last normalization, then the output head.
    head: Projection,
    /// Whether activations, and so MLX's keys and values, have 16 bits.
    half: bool,
}

impl Model {
    pub(super) fn load(
        config: &serde_json::Value,
        weights: &mut Weights<'_>,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        let args = ModelArgs::parse(config)?;
        let shape = [args.vocab_size, args.hidden_size];
        let layer = |layer| TransformerBlock::load(&args, weights, &format!("model.layers.{layer}"), kernels);
        let layers = (0..args.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        let embed_tokens = Embedding::load(weights, "model.embed_tokens", shape, kernels)?;
        let norm = Norm::load(weights, "model.norm", args.hidden_size, args.rms_norm_eps, kernels)?;
        let tied = args.tie_word_embeddings.unwrap_or_else(|| !weights.contains("lm_head.weight"));
        let head =
            if tied { embed_tokens.head() } else { Matrix::load(weights, "lm_head", shape, false, kernels)? };
        // Older files carry tables that follow from the configuration, and a copy of a tied head.
        weights
            .ignore(|name| name.ends_with(".rotary_emb.inv_freq") || (tied && name.starts_with("lm_head.")));
        let head = Projection::new(Some(norm), vec![head], kernels);
        let rope = Rope::new(args.heads.dim, &args.rope, args.max_position_embeddings);
        let half = computed_in(weights, kernels) != Dtype::Float32;
        Ok(Self { rope, args, embed_tokens, layers, head, half })
    }

    pub(super) fn context_length(&self) -> u32 {
        self.args.max_position_embeddings.unsigned_abs()
    }

    pub(super) fn vocab_size(&self) -> u32 {
        self.args.vocab_size.unsigned_abs()
    }

    pub(super) fn heads(&self) -> Heads {
        self.args.heads
    }

    pub(super) fn rope(&self) -> &Rope {
        &self.rope
    }

    pub(super) fn kv_shape(&self) -> KvShape {
        let Heads { kv, dim, .. } = self.args.heads;
        KvShape { layers: self.args.num_hidden_layers, kv_heads: kv, head_dim: dim, half: self.half }
    }

    /// `[tokens, hidden]` of `tokens`, before the last normalization; appends their keys and values. Lazy.
    pub(super) fn hidden(&self, tokens: &Array, step: &StepAttention<'_>) -> Result<Array, Exception> {
        let mut x = self.embed_tokens.lookup(tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, index, step)?;
        }
        Ok(x)
    }

    /// `[rows, vocab]` of `[rows, hidden]`. Lazy.
    pub(super) fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        self.head.forward(hidden, None)
    }
}
