//! `model_type` "llama": Llama 2 and 3, SmolLM2, and others of the same build.

use mlx_rs::{Array, error::Exception};

use crate::model::layers::{
    Architecture, Attention, AttentionParams, AttentionSpec, DecoderConfig, Embedding, FusedLinear, Mlp,
    MlpParams, ModelError, RmsNorm, Settings, StepMemory, SublayerNorms, Weights, load_matrix, load_rope,
};

/// The model.
struct Llama {
    config: DecoderConfig,
    embed_tokens: Embedding,
    layers: Vec<TransformerBlock>,
    /// The last normalization, then the output head.
    head: FusedLinear,
}

/// Attention and feed-forward network, each pre-norm, with a residual connection.
struct TransformerBlock {
    self_attn: Attention,
    mlp: Mlp,
}

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let config = DecoderConfig::parse(config, &[])?;
    let rope = load_rope(&config.rope, config.heads.dim, config.max_position_embeddings);
    let spec = AttentionSpec::causal(config.heads, Some(rope));
    let layer = |layer| TransformerBlock::load(&config, &spec, layer, weights);
    let layers =
        (0..config.num_hidden_layers.unsigned_abs() as usize).map(layer).collect::<Result<_, _>>()?;
    let shape = [config.vocab_size, config.hidden_size];
    let embed_tokens = Embedding::load(weights, "model.embed_tokens", shape)?;
    let norm = RmsNorm::load(weights, "model.norm", config.hidden_size, config.rms_norm_eps)?;
    let tied = config.tie_word_embeddings.unwrap_or_else(|| !weights.contains("lm_head.weight"));
    let head = if tied { embed_tokens.head() } else { load_matrix(weights, "lm_head", shape, false)? };
    // Older files carry tables that follow from the configuration, and a copy of a tied head.
    weights.ignore(|name| name.ends_with(".rotary_emb.inv_freq") || (tied && name.starts_with("lm_head.")));
    let head = FusedLinear::new(Some(norm), vec![head], weights);
    Ok(Box::new(Llama { config, embed_tokens, layers, head }))
}

impl TransformerBlock {
    fn load(
        config: &DecoderConfig,
        spec: &AttentionSpec,
        layer: usize,
        weights: &mut Weights<'_>,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut norm = |part: &str| {
            RmsNorm::load(weights, &name(part), config.hidden_size, config.rms_norm_eps)
                .map(SublayerNorms::pre)
        };
        let (attention_norms, mlp_norms) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        let attention = AttentionParams {
            spec: spec.clone(),
            layer,
            hidden_size: config.hidden_size,
            qkv_bias: config.attention_bias,
            output_bias: config.attention_bias,
        };
        let mlp = MlpParams {
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            bias: config.mlp_bias,
        };
        Ok(Self {
            self_attn: Attention::load(weights, &name("self_attn"), attention, attention_norms)?,
            mlp: Mlp::load(weights, &name("mlp"), &mlp, mlp_norms)?,
        })
    }
}

impl Architecture for Llama {
    fn context_length(&self) -> u32 {
        self.config.max_position_embeddings.unsigned_abs()
    }

    fn vocab_size(&self) -> u32 {
        self.config.vocab_size.unsigned_abs()
    }

    fn attention(&self) -> Vec<&AttentionSpec> {
        self.layers.iter().map(|layer| layer.self_attn.spec()).collect()
    }

    fn hidden(&self, tokens: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let mut x = self.embed_tokens.lookup(tokens)?;
        for layer in &self.layers {
            x = layer.mlp.forward(&layer.self_attn.forward(&x, step)?)?;
        }
        Ok(x)
    }

    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        self.head.forward(hidden, None)
    }
}
