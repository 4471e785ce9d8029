//! `model_type` "llama": Llama 2 and 3, SmolLM2, and others of the same build.

use mlx_ext::Backend;
use mlx_rs::{
    Array,
    error::Exception,
    fast::{ScaledDotProductAttentionMask, rms_norm, scaled_dot_product_attention},
    ops::{concatenate, indexing::TryIndexOp, sigmoid},
};
use serde::Deserialize;

use super::{
    ModelError, SequenceKv,
    linear::{Embedding, Linear},
    rope::{Rope, RopeScaling},
    step::{Part, Product},
    weights::Weights,
};

/// What the configuration says, with Hugging Face's names and defaults.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: i32,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_context")]
    max_position_embeddings: i32,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    rope_theta: Option<f32>,
    #[serde(default)]
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    /// The name that newer configurations have for it.
    rope_parameters: Option<RopeScaling>,
    /// Whether the embedding gives the logits; where it is not said, the weights tell.
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    layer_types: Vec<String>,
    quantization: Option<Quantization>,
}

/// The one thing about quantization that the tensors' shapes don't tell.
#[derive(Debug, Clone, Deserialize)]
struct Quantization {
    mode: Option<String>,
}

fn default_context() -> i32 {
    2048
}

fn default_activation() -> String {
    "silu".to_owned()
}

impl ModelArgs {
    fn parse(config: &serde_json::Value) -> Result<Self, ModelError> {
        let args = Self::deserialize(config)?;
        let sizes = [
            ("hidden_size", args.hidden_size),
            ("num_hidden_layers", args.num_hidden_layers),
            ("intermediate_size", args.intermediate_size),
            ("num_attention_heads", args.num_attention_heads),
            ("num_key_value_heads", args.kv_heads()),
            ("vocab_size", args.vocab_size),
            ("max_position_embeddings", args.max_position_embeddings),
        ];
        for (setting, value) in sizes {
            supported(setting, value, value > 0)?;
        }
        supported("num_key_value_heads", args.kv_heads(), args.num_attention_heads % args.kv_heads() == 0)?;
        let head_dim = args.head_dim();
        supported("head_dim", head_dim, head_dim > 0 && head_dim % 2 == 0)?;
        supported("hidden_act", &args.hidden_act, args.hidden_act == "silu")?;
        if let Some(other) = args.layer_types.iter().find(|kind| *kind != "full_attention") {
            supported("layer_types", other, false)?;
        }
        if let Some(mode) = args.quantization.as_ref().and_then(|quantization| quantization.mode.as_ref()) {
            supported("quantization.mode", mode, mode == "affine")?;
        }
        Ok(args)
    }

    fn kv_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    fn rope(&self) -> Result<Rope, ModelError> {
        let scaling = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let base = self.rope_theta.or(scaling.and_then(|scaling| scaling.rope_theta)).unwrap_or(10_000.0);
        Rope::new(self.head_dim(), self.rope_traditional, base, scaling)
    }
}

fn supported(setting: &'static str, value: impl ToString, holds: bool) -> Result<(), ModelError> {
    if holds { Ok(()) } else { Err(ModelError::UnsupportedSetting { setting, value: value.to_string() }) }
}

/// Grouped-query attention.
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    rope: Rope,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    scale: f32,
}

impl Attention {
    fn load(
        args: &ModelArgs,
        weights: &mut Weights<'_>,
        name: &str,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        let (hidden, head_dim) = (args.hidden_size, args.head_dim());
        let (heads, kv_heads) = (args.num_attention_heads, args.kv_heads());
        let mut load = |part: &str, shape| {
            Linear::load(weights, &format!("{name}.{part}"), shape, args.attention_bias, backend)
        };
        Ok(Self {
            q_proj: load("q_proj", [heads * head_dim, hidden])?,
            k_proj: load("k_proj", [kv_heads * head_dim, hidden])?,
            v_proj: load("v_proj", [kv_heads * head_dim, hidden])?,
            o_proj: load("o_proj", [hidden, heads * head_dim])?,
            rope: args.rope()?,
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        })
    }

    /// `x` and the result: `[tokens, hidden]`.
    fn forward(&self, x: &Array, layer: usize, part: &mut Part<'_>) -> Result<Array, Exception> {
        let split = |x: Array, heads| x.reshape(&[x.dim(0), heads, self.head_dim]);
        let queries = split(self.q_proj.forward(x, part.product)?, self.heads)?;
        let keys = split(self.k_proj.forward(x, part.product)?, self.kv_heads)?;
        let values = split(self.v_proj.forward(x, part.product)?, self.kv_heads)?;
        let queries = self.rope.apply(&queries, &part.positions)?;
        let keys = self.rope.apply(&keys, &part.positions)?;

        let tokens = part.tokens_each;
        let mut attended = Vec::with_capacity(part.sequences.len());
        for (start, kv) in (0..).step_by(tokens as usize).zip(&mut part.sequences) {
            let own = |x: &Array| x.try_index(start..start + tokens)?.swap_axes(0, 1)?.expand_dims(0);
            let (keys, values) = kv.append(layer, &own(&keys)?, &own(&values)?)?;
            attended.push(self.attend(&own(&queries)?, &keys, &values)?);
        }
        let attended = match &attended[..] {
            [one] => one.clone(),
            several => concatenate(several, 0)?,
        };
        self.o_proj.forward(&attended, part.product)
    }

    /// One sequence: `queries` `[1, heads, new, head_dim]`, `keys` and `values`
    /// `[1, kv_heads, all, head_dim]`, the new tokens being the last of all.
    /// Returns `[new, heads * head_dim]`.
    fn attend(&self, queries: &Array, keys: &Array, values: &Array) -> Result<Array, Exception> {
        let new = queries.dim(2);
        let mask = (new > 1).then_some(ScaledDotProductAttentionMask::Causal);
        scaled_dot_product_attention(queries, keys, values, self.scale, mask, None)?
            .transpose_axes(&[0, 2, 1, 3])?
            .reshape(&[new, self.heads * self.head_dim])
    }
}

/// Gated feed-forward network.
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(
        args: &ModelArgs,
        weights: &mut Weights<'_>,
        name: &str,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (args.hidden_size, args.intermediate_size);
        let mut load = |part: &str, shape| {
            Linear::load(weights, &format!("{name}.{part}"), shape, args.mlp_bias, backend)
        };
        Ok(Self {
            gate_proj: load("gate_proj", [inner, hidden])?,
            up_proj: load("up_proj", [inner, hidden])?,
            down_proj: load("down_proj", [hidden, inner])?,
        })
    }

    fn forward(&self, x: &Array, product: Product) -> Result<Array, Exception> {
        let gate = self.gate_proj.forward(x, product)?;
        let open = gate.multiply(sigmoid(&gate)?)?;
        self.down_proj.forward(&open.multiply(self.up_proj.forward(x, product)?)?, product)
    }
}

/// Attention and feed-forward network, each behind a normalization and beside a bypass.
struct TransformerBlock {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: Array,
    post_attention_layernorm: Array,
    eps: f32,
}

impl TransformerBlock {
    fn load(
        args: &ModelArgs,
        weights: &mut Weights<'_>,
        name: &str,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        let hidden = [args.hidden_size];
        Ok(Self {
            self_attn: Attention::load(args, weights, &format!("{name}.self_attn"), backend)?,
            mlp: Mlp::load(args, weights, &format!("{name}.mlp"), backend)?,
            input_layernorm: weights.take_float(&format!("{name}.input_layernorm.weight"), &hidden)?,
            post_attention_layernorm: weights
                .take_float(&format!("{name}.post_attention_layernorm.weight"), &hidden)?,
            eps: args.rms_norm_eps,
        })
    }

    fn forward(&self, x: &Array, layer: usize, part: &mut Part<'_>) -> Result<Array, Exception> {
        let normed = rms_norm(x, Some(&self.input_layernorm), self.eps)?;
        let x = x.add(self.self_attn.forward(&normed, layer, part)?)?;
        let normed = rms_norm(&x, Some(&self.post_attention_layernorm), self.eps)?;
        x.add(self.mlp.forward(&normed, part.product)?)
    }
}

/// The model.
pub(super) struct Model {
    args: ModelArgs,
    embed_tokens: Embedding,
    layers: Vec<TransformerBlock>,
    norm: Array,
    /// `None`: the embedding gives the logits.
    lm_head: Option<Linear>,
}

impl Model {
    pub(super) fn load(
        config: &serde_json::Value,
        weights: &mut Weights<'_>,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        let args = ModelArgs::parse(config)?;
        let shape = [args.vocab_size, args.hidden_size];
        let layer = |layer| TransformerBlock::load(&args, weights, &format!("model.layers.{layer}"), backend);
        let layers = (0..args.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        let embed_tokens = Embedding::load(weights, "model.embed_tokens", shape, backend)?;
        let norm = weights.take_float("model.norm.weight", &[args.hidden_size])?;
        let tied = args.tie_word_embeddings.unwrap_or_else(|| !weights.contains("lm_head.weight"));
        let lm_head =
            if tied { None } else { Some(Linear::load(weights, "lm_head", shape, false, backend)?) };
        // Older files carry tables that follow from the configuration, and a copy of a tied head.
        weights
            .ignore(|name| name.ends_with(".rotary_emb.inv_freq") || (tied && name.starts_with("lm_head.")));
        Ok(Self { args, embed_tokens, layers, norm, lm_head })
    }

    pub(super) fn context_length(&self) -> u32 {
        self.args.max_position_embeddings.unsigned_abs()
    }

    pub(super) fn vocab_size(&self) -> u32 {
        self.args.vocab_size.unsigned_abs()
    }

    /// Bytes of one token's keys and values; they are held as float32, or what is smaller.
    pub(super) fn kv_bytes_per_token(&self) -> u64 {
        let values = self.layers.len() as u64
            * 2
            * u64::from(self.args.kv_heads().unsigned_abs())
            * u64::from(self.args.head_dim().unsigned_abs());
        values * size_of::<f32>() as u64
    }

    pub(super) fn new_kv(&self) -> SequenceKv {
        SequenceKv::new(self.layers.len(), self.args.kv_heads(), self.args.head_dim())
    }

    /// `[tokens, hidden]` of a part's tokens, before the last normalization; appends their keys
    /// and values. Lazy.
    pub(super) fn hidden(&self, part: &mut Part<'_>) -> Result<Array, ModelError> {
        let mut x = self.embed_tokens.lookup(&part.tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, index, part)?;
        }
        Ok(x)
    }

    /// `[rows, vocab]` of `[rows, hidden]`, whose rows belong to different sequences. Lazy.
    pub(super) fn logits(&self, hidden: &Array) -> Result<Array, ModelError> {
        let x = rms_norm(hidden, Some(&self.norm), self.args.rms_norm_eps)?;
        Ok(match &self.lm_head {
            Some(head) => head.forward(&x, Product::RowsApart)?,
            None => self.embed_tokens.as_linear(&x, Product::RowsApart)?,
        })
    }
}
