//! `model_type` "llama": Llama 2 and 3, SmolLM2, and others of the same build.

use mlx_ext::cpu::KvShape;
use mlx_rs::{Array, error::Exception};
use serde::Deserialize;

use super::{
    Kernels, ModelError,
    attention::{Heads, StepAttention},
    linear::{Embedding, Matrix, Norm, Projection},
    rope::{Rope, RopeScaling},
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

    fn heads(&self) -> Heads {
        Heads { queries: self.num_attention_heads, kv: self.kv_heads(), dim: self.head_dim() }
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
        let Heads { queries, kv, dim } = args.heads();
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
        Ok(Self { rope: args.rope()?, args, embed_tokens, layers, head })
    }

    pub(super) fn context_length(&self) -> u32 {
        self.args.max_position_embeddings.unsigned_abs()
    }

    pub(super) fn vocab_size(&self) -> u32 {
        self.args.vocab_size.unsigned_abs()
    }

    pub(super) fn heads(&self) -> Heads {
        self.args.heads()
    }

    pub(super) fn rope(&self) -> &Rope {
        &self.rope
    }

    pub(super) fn kv_shape(&self) -> KvShape {
        let Heads { kv, dim, .. } = self.args.heads();
        KvShape { layers: self.args.num_hidden_layers, kv_heads: kv, head_dim: dim, half: false }
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
