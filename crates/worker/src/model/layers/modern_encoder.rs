//! Encoders of ModernBERT's build: normalizations before the sublayers, positions by rotation, and a feed-forward network with a
//! gate. Most layers see a window to both sides.

use std::rc::Rc;

use mlx_rs::{Array, error::Exception};

use super::{
    Embedding, Encoder, EncoderInput, FusedLinear, ModelError, ModernEncoderConfig, NormParams,
    Normalization, Weights, load_matrices, load_matrix, load_rope,
};
use crate::backend::{AttentionSpec, Backend, Rope, Rowwise};

/// The model.
struct ModernEncoder {
    config: ModernEncoderConfig,
    words: Embedding,
    norm: Normalization,
    blocks: Vec<Block>,
    last_norm: Normalization,
}

struct Block {
    /// Normalization, but in the first layer, then queries, keys and values.
    qkv: FusedLinear,
    attention: AttentionSpec,
    attention_output: FusedLinear,
    mlp: GeluMlp,
}

/// `x + output(gelu(inner(n)) * gate(n))` with `n = norm(x)`.
struct GeluMlp {
    norm: Normalization,
    inner: FusedLinear,
    gate: FusedLinear,
    output: FusedLinear,
    backend: Backend,
}

/// What a model with a head has before the names of its encoder's tensors.
const PREFIX: &str = "model.";
const WORDS: &str = "embeddings.tok_embeddings";
/// Beginnings of the names of heads, which an encoder's hidden states do not depend on.
const UNNEEDED: [&str; 3] = ["head.", "decoder.", "classifier."];

/// Takes the weights.
pub(in crate::model) fn load_modern_encoder(
    config: ModernEncoderConfig,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Encoder>, ModelError> {
    weights.ignore(|name| UNNEEDED.iter().any(|start| name.starts_with(start)));
    if weights.contains(&format!("{PREFIX}{WORDS}.weight")) {
        weights.enter(PREFIX, &[]);
    }
    let words = Embedding::load(weights, WORDS, [config.vocab_size, config.hidden_size], 1.0)?;
    let norm = config.norm(weights, "embeddings.norm")?;
    let context = config.max_position_embeddings;
    let rope = load_rope(&config.rope, config.heads.dim, context);
    let local = load_rope(&config.local_rope, config.heads.dim, context);
    let mut blocks = Vec::with_capacity(config.windows.len());
    for (layer, window) in config.windows.iter().enumerate() {
        let rope = Rc::clone(if window.is_some() { &local } else { &rope });
        blocks.push(Block::load(&config, layer, (*window, rope), weights)?);
    }
    let last_norm = config.norm(weights, "final_norm")?;
    Ok(Box::new(ModernEncoder { config, words, norm, blocks, last_norm }))
}

impl ModernEncoderConfig {
    fn norm(&self, weights: &mut Weights<'_>, name: &str) -> Result<Normalization, ModelError> {
        let params = NormParams::layer(self.norm_eps, self.norm_bias);
        Normalization::load(weights, name, self.hidden_size, params)
    }
}

impl Block {
    fn load(
        config: &ModernEncoderConfig,
        layer: usize,
        (window, rope): (Option<i32>, Rc<Rope>),
        weights: &mut Weights<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let name = |part: &str| format!("layers.{layer}.{part}");
        // What the first layer gets has just been normalized.
        let before = if layer > 0 { Some(config.norm(weights, &name("attn_norm"))?) } else { None };
        let qkv = load_matrix(weights, &name("attn.Wqkv"), [3 * hidden, hidden], bias)?;
        let output = load_matrix(weights, &name("attn.Wo"), [hidden, hidden], bias)?;
        Ok(Self {
            qkv: FusedLinear::new(before, vec![qkv], weights),
            attention: AttentionSpec { window, ..AttentionSpec::bidirectional(config.heads, Some(rope)) },
            attention_output: FusedLinear::new(None, vec![output], weights),
            mlp: GeluMlp::load(config, layer, weights)?,
        })
    }

    /// `x` and the result: `[tokens, hidden]`.
    fn forward(&self, x: &Array, input: &EncoderInput<'_>) -> Result<Array, Exception> {
        let attended = input.packed.attend(&self.attention, &self.qkv.forward(x, None)?)?;
        self.mlp.forward(&self.attention_output.forward(&attended, Some(x))?)
    }
}

impl GeluMlp {
    fn load(
        config: &ModernEncoderConfig,
        layer: usize,
        weights: &mut Weights<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let name = |part: &str| format!("layers.{layer}.{part}");
        let mut both = load_matrices(weights, &name("mlp.Wi"), (&[inner, inner], hidden), bias)?;
        let gate = both.split_off(1);
        let output = load_matrix(weights, &name("mlp.Wo"), [hidden, inner], bias)?;
        Ok(Self {
            norm: config.norm(weights, &name("mlp_norm"))?,
            inner: FusedLinear::new(None, both, weights),
            gate: FusedLinear::new(None, gate, weights),
            output: FusedLinear::new(None, vec![output], weights),
            backend: weights.backend(),
        })
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        let normed = self.norm.forward(x)?;
        let inner = self.inner.forward(&normed, None)?;
        let inner = self.backend.rowwise(&Rowwise { gelu: true, ..Rowwise::of(&inner) })?;
        self.output.forward(&inner.multiply(&self.gate.forward(&normed, None)?)?, Some(x))
    }
}

impl Encoder for ModernEncoder {
    fn context_length(&self) -> u32 {
        self.config.max_position_embeddings.unsigned_abs()
    }

    fn vocab_size(&self) -> u32 {
        self.config.vocab_size.unsigned_abs()
    }

    fn hidden_size(&self) -> u32 {
        self.config.hidden_size.unsigned_abs()
    }

    fn hidden(&self, input: &EncoderInput<'_>) -> Result<Array, Exception> {
        let tokens = input.inputs.concat();
        let tokens = Array::from_slice(&tokens, &[tokens.len() as i32]);
        let mut x = self.norm.forward(&self.words.lookup(&tokens)?)?;
        for block in &self.blocks {
            x = block.forward(&x, input)?;
        }
        self.last_norm.forward(&x)
    }
}
