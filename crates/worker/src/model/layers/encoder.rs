//! Encoders of BERT's build: embeddings of tokens and positions, then blocks of attention and a feed-forward network, each with
//! a normalization behind its residual connection. Every token sees all others.

use mlx_rs::{Array, error::Exception};

use super::{
    Embedding, Encoder, EncoderConfig, EncoderInput, FusedLinear, ModelError, NormParams, Normalization,
    Weights, load_matrix,
};
use crate::backend::{AttentionSpec, Backend, Rowwise};

/// In what encoders differ beside their sizes.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct EncoderPlan {
    /// What the tensors' names may begin with: they do in models that have a head, which is dropped.
    pub(in crate::model) prefix: &'static str,
    /// Positions begin behind that of the padding, which stays where it is.
    pub(in crate::model) positions_behind_padding: bool,
}

/// The model.
struct BertEncoder {
    config: EncoderConfig,
    first_position: i32,
    plan: EncoderPlan,
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: Normalization,
    blocks: Vec<Block>,
    backend: Backend,
}

struct Block {
    /// Queries, keys and values.
    qkv: FusedLinear,
    attended: Residual,
    inner: FusedLinear,
    outer: Residual,
    attention: AttentionSpec,
    backend: Backend,
}

/// `norm(residual + x Wᵀ + b)`.
struct Residual {
    linear: FusedLinear,
    norm: Normalization,
}

/// Tensors that an encoder's hidden states do not depend on, by the beginning of their names.
const UNNEEDED: [&str; 6] =
    ["pooler.", "embeddings.position_ids", "embeddings.token_type_ids", "cls.", "lm_head.", "classifier."];

impl EncoderPlan {
    /// Takes the weights.
    pub(in crate::model) fn load(
        self,
        config: EncoderConfig,
        weights: &mut Weights<'_>,
    ) -> Result<Box<dyn Encoder>, ModelError> {
        if weights.contains(&format!("{}embeddings.word_embeddings.weight", self.prefix)) {
            weights.enter(self.prefix, &[]);
        }
        weights.ignore(|name| UNNEEDED.iter().any(|start| name.starts_with(start)));
        let first_position = if self.positions_behind_padding { config.pad_token_id + 1 } else { 0 };
        if first_position >= config.max_position_embeddings {
            return Err(ModelError::BadSetting {
                setting: "max_position_embeddings".to_owned(),
                value: config.max_position_embeddings.to_string(),
                expected: "more than `pad_token_id` + 1".to_owned(),
            });
        }
        let mut table = |name: &str, rows: i32| {
            Embedding::load(
                weights,
                &format!("embeddings.{name}_embeddings"),
                [rows, config.hidden_size],
                1.0,
            )
        };
        let words = table("word", config.vocab_size)?;
        let positions = table("position", config.max_position_embeddings)?;
        let types = table("token_type", config.type_vocab_size)?;
        let norm = config.norm(weights, "embeddings.LayerNorm")?;
        let blocks = (0..config.num_hidden_layers).map(|layer| Block::load(&config, layer, weights));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let backend = weights.backend();
        let plan = self;
        Ok(Box::new(BertEncoder {
            config,
            first_position,
            plan,
            words,
            positions,
            types,
            norm,
            blocks,
            backend,
        }))
    }
}

impl EncoderConfig {
    fn norm(&self, weights: &mut Weights<'_>, name: &str) -> Result<Normalization, ModelError> {
        let params = NormParams::layer(self.layer_norm_eps, true);
        Normalization::load(weights, name, self.hidden_size, params)
    }
}

impl Block {
    fn load(config: &EncoderConfig, layer: i32, weights: &mut Weights<'_>) -> Result<Self, ModelError> {
        let name = format!("encoder.layer.{layer}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mut project = |which: &str| {
            load_matrix(weights, &format!("{name}.attention.self.{which}"), [hidden, hidden], true)
        };
        let qkv = vec![project("query")?, project("key")?, project("value")?];
        let up = load_matrix(weights, &format!("{name}.intermediate.dense"), [inner, hidden], true)?;
        Ok(Self {
            qkv: FusedLinear::new(None, qkv, weights),
            attended: Residual::load(config, &format!("{name}.attention.output"), hidden, weights)?,
            inner: FusedLinear::new(None, vec![up], weights),
            outer: Residual::load(config, &format!("{name}.output"), inner, weights)?,
            attention: AttentionSpec::bidirectional(config.heads, None),
            backend: weights.backend(),
        })
    }

    /// `x` and the result: `[tokens, hidden]`.
    fn forward(&self, x: &Array, input: &EncoderInput<'_>) -> Result<Array, Exception> {
        let qkv = self.qkv.forward(x, None)?;
        let x = self.attended.forward(&input.packed.attend(&self.attention, &qkv)?, x)?;
        let inner = self.inner.forward(&x, None)?;
        let inner = self.backend.rowwise(&Rowwise { gelu: true, ..Rowwise::of(&inner) })?;
        self.outer.forward(&inner, &x)
    }
}

impl Residual {
    fn load(
        config: &EncoderConfig,
        name: &str,
        inputs: i32,
        weights: &mut Weights<'_>,
    ) -> Result<Self, ModelError> {
        let matrix = load_matrix(weights, &format!("{name}.dense"), [config.hidden_size, inputs], true)?;
        let norm = config.norm(weights, &format!("{name}.LayerNorm"))?;
        Ok(Self { linear: FusedLinear::new(None, vec![matrix], weights), norm })
    }

    fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        self.norm.forward(&self.linear.forward(x, Some(residual))?)
    }
}

impl BertEncoder {
    /// The position of each token within its input.
    fn positions(&self, input: &EncoderInput<'_>) -> Vec<u32> {
        let padding = self.config.pad_token_id.unsigned_abs();
        let first = self.first_position.unsigned_abs();
        let mut positions = Vec::with_capacity(input.inputs.iter().map(|tokens| tokens.len()).sum());
        for tokens in input.inputs {
            let mut next = first;
            for &token in *tokens {
                if self.plan.positions_behind_padding && token == padding {
                    positions.push(padding);
                } else {
                    positions.push(next);
                    next += 1;
                }
            }
        }
        positions
    }
}

impl Encoder for BertEncoder {
    fn context_length(&self) -> u32 {
        (self.config.max_position_embeddings - self.first_position).unsigned_abs()
    }

    fn vocab_size(&self) -> u32 {
        self.config.vocab_size.unsigned_abs()
    }

    fn hidden_size(&self) -> u32 {
        self.config.hidden_size.unsigned_abs()
    }

    fn hidden(&self, input: &EncoderInput<'_>) -> Result<Array, Exception> {
        let indices = |of: &[u32]| Array::from_slice(of, &[of.len() as i32]);
        let tokens = input.inputs.concat();
        let words = self.words.lookup(&indices(&tokens))?;
        let types = self.types.lookup(&indices(&vec![0; tokens.len()]))?;
        let positions = self.positions.lookup(&indices(&self.positions(input)))?;
        let add =
            |x: &Array, to: &Array| self.backend.rowwise(&Rowwise { residual: Some(to), ..Rowwise::of(x) });
        let mut x = self.norm.forward(&add(&positions, &add(&types, &words)?)?)?;
        for block in &self.blocks {
            x = block.forward(&x, input)?;
        }
        Ok(x)
    }
}
