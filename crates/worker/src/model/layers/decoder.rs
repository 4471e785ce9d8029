//! Decoders of the usual build: an embedding, blocks of attention and a feed-forward network, a normalization and an output
//! head, as a [`DecoderPlan`] says.

use mlx_rs::{Array, Dtype, error::Exception};

use super::{
    Architecture, Attention, AttentionParams, BlockNorms, DecoderConfig, DecoderPlan, Embedding, FusedLinear,
    LatentAttention, LayerInput, LayerInputs, LayerInputsPlan, Mixer, ModelError, Normalization, QkNorm,
    StateParts, SublayerNorms, Weights, feed_forward::FeedForward, load_matrix,
};
use crate::backend::{AttentionSpec, Backend, KvSource, Rowwise, StateGeometry, StepMemory};

/// The model.
pub(in crate::model) struct Decoder {
    config: DecoderConfig,
    embed_tokens: Embedding,
    layer_inputs: Option<LayerInputs>,
    blocks: Vec<Block>,
    states: StateGeometry,
    top: Top,
    logit_factor: f32,
    logit_cap: Option<f32>,
    backend: Backend,
}

/// What follows the blocks.
enum Top {
    /// The last normalization, then the output head.
    Logits(FusedLinear),
    /// The last normalization alone, of a model that embeds.
    Hidden(Normalization),
}

struct Block {
    /// Of attention and feed-forward network, if they are parallel.
    before: Option<Normalization>,
    mixer: Mixer,
    mlp: FeedForward,
    input: Option<LayerInput>,
    /// Of the result, if there is one.
    scalar: Option<f32>,
    backend: Backend,
}

/// Tables that follow from the configuration.
const INV_FREQ: &str = ".rotary_emb.inv_freq";

/// What is counted while blocks are loaded.
#[derive(Default)]
struct Loading {
    /// Of each layer so far: where its keys and values are, if it has attention.
    places: Vec<Option<usize>>,
    /// Layers that have keys and values of their own.
    own: usize,
    states: StateParts,
}

impl DecoderPlan {
    /// Takes the weights.
    pub(in crate::model) fn load(
        self,
        config: DecoderConfig,
        weights: &mut Weights<'_>,
    ) -> Result<Box<dyn Architecture>, ModelError> {
        self.check()?;
        let mut loading = Loading::default();
        let block = |layer| Block::load(&config, &self, layer, (&mut *weights, &mut loading));
        let blocks = (0..config.layers()).map(block).collect::<Result<_, _>>()?;
        let shape = [config.vocab_size, config.hidden_size];
        let embed_tokens = Embedding::load(weights, "model.embed_tokens", shape, self.embedding_factor)?;
        let sizes = [config.num_hidden_layers, config.hidden_size];
        let layer_inputs =
            self.layer_inputs.map(|plan| LayerInputs::load(weights, plan, sizes, self.norm)).transpose()?;
        let top = Top::load(&config, &self, &embed_tokens, weights)?;
        let (logit_factor, logit_cap, backend) = (self.logit_factor, self.logit_cap, weights.backend());
        let states = loading.states.finish();
        Ok(Box::new(Decoder {
            config,
            embed_tokens,
            layer_inputs,
            blocks,
            states,
            top,
            logit_factor,
            logit_cap,
            backend,
        }))
    }
}

impl Top {
    fn load(
        config: &DecoderConfig,
        plan: &DecoderPlan,
        embedding: &Embedding,
        weights: &mut Weights<'_>,
    ) -> Result<Self, ModelError> {
        let norm = Normalization::load(weights, plan.names.last_norm, config.hidden_size, plan.norm)?;
        if weights.embeds() {
            weights.ignore(|name| name.ends_with(INV_FREQ) || name.starts_with("lm_head."));
            return Ok(Self::Hidden(norm));
        }
        let shape = [config.vocab_size, config.hidden_size];
        let tied = config.tie_word_embeddings.unwrap_or_else(|| !weights.contains("lm_head.weight"));
        let head = if tied { embedding.head() } else { load_matrix(weights, "lm_head", shape, false)? };
        // Older files carry tables that follow from the configuration, and a copy of a tied head.
        weights.ignore(|name| name.ends_with(INV_FREQ) || (tied && name.starts_with("lm_head.")));
        Ok(Self::Logits(FusedLinear::new(Some(norm), vec![head], weights)))
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
        let mixer = load_mixer((config, plan, layer), (&mut *weights, loading), attention_norms)?;
        let mlp = FeedForward::load(config, plan, layer, (&mut *weights, mlp_norms))?;
        let beginning = format!("model.layers.{layer}");
        let of_layer = (config.hidden_size, plan.norm);
        let input =
            |inputs: LayerInputsPlan| LayerInput::load(weights, &beginning, (layer, inputs.width), of_layer);
        let input = plan.layer_inputs.map(input).transpose()?;
        let scalar = plan.layer_scalars.then(|| load_scalar(weights, &name("layer_scalar"))).transpose()?;
        Ok(Self { before, mixer, mlp, input, scalar, backend: weights.backend() })
    }

    /// `x` and the result: `[tokens, hidden]`. `inputs` are those of all layers, if they have any.
    fn forward(&self, x: &Array, inputs: Option<&Array>, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let mut x = self.sublayers(x, step)?;
        if let (Some(input), Some(inputs)) = (&self.input, inputs) {
            x = input.forward(&x, inputs)?;
        }
        match self.scalar {
            Some(factor) => self.backend.rowwise(&Rowwise { factor, ..Rowwise::of(&x) }),
            None => Ok(x),
        }
    }

    /// Attention and feed-forward network.
    fn sublayers(&self, x: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
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
    (config, plan, layer): (&DecoderConfig, &DecoderPlan, usize),
    (weights, loading): (&mut Weights<'_>, &mut Loading),
    norms: SublayerNorms,
) -> Result<Mixer, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let (hidden_size, residual_factor) = (config.hidden_size, plan.residual_factor);
    if let Some(Some(recurrent)) = plan.recurrent.get(layer) {
        loading.places.push(None);
        let name = name(plan.names.recurrent);
        return recurrent.load(weights, &name, hidden_size, norms, &mut loading.states);
    }
    let (name, spec) = (name(plan.names.attention), plan.attention[layer].clone());
    let values_are_keys = plan.values_are_keys.get(layer) == Some(&true);
    let layer = loading.place(layer, spec.kv)?;
    if let Some(latent) = plan.latent {
        let kind = (latent, spec, layer);
        let loaded = LatentAttention::load(weights, &name, kind, (hidden_size, residual_factor), norms)?;
        return Ok(Mixer::Latent(Box::new(loaded)));
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
        values_are_keys,
        gated: plan.gated_attention,
        qk_norm,
        residual_factor,
        output_name: plan.names.attention_output,
        norm_names: plan.names.qk_norms,
    };
    Attention::load(weights, &name, params, norms).map(Box::new).map(Mixer::Attention)
}

impl Loading {
    /// Where the layer's keys and values are.
    fn place(&mut self, layer: usize, kv: KvSource) -> Result<usize, ModelError> {
        let place = match kv {
            KvSource::Own | KvSource::Lent => {
                self.own += 1;
                self.own - 1
            }
            KvSource::Borrowed(from) => {
                let what = "keys and values of a layer that has none";
                let missing = ModelError::UnsupportedAttention { layer, what };
                self.places.get(from).copied().flatten().ok_or(missing)?
            }
        };
        self.places.push(Some(place));
        Ok(place)
    }
}

/// A tensor of one number.
fn load_scalar(weights: &mut Weights<'_>, name: &str) -> Result<f32, ModelError> {
    let number = weights.take_float(name, &[1])?.as_dtype(Dtype::Float32)?;
    number.eval()?;
    Ok(number.as_slice::<f32>()[0])
}

impl Architecture for Decoder {
    fn context_length(&self) -> u32 {
        self.config.max_position_embeddings.unsigned_abs()
    }

    fn vocab_size(&self) -> u32 {
        self.config.vocab_size.unsigned_abs()
    }

    fn hidden_size(&self) -> u32 {
        self.config.hidden_size.unsigned_abs()
    }

    fn attention(&self) -> Vec<&AttentionSpec> {
        self.blocks.iter().filter_map(|block| block.mixer.attention()).collect()
    }

    fn states(&self) -> StateGeometry {
        self.states.clone()
    }

    fn hidden(&self, tokens: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let mut x = self.embed_tokens.lookup(tokens)?;
        let inputs = self.layer_inputs.as_ref().map(|inputs| inputs.of(tokens, &x)).transpose()?;
        for block in &self.blocks {
            x = block.forward(&x, inputs.as_ref(), step)?;
        }
        match &self.top {
            Top::Logits(_) => Ok(x),
            Top::Hidden(norm) => norm.forward(&x),
        }
    }

    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        let Top::Logits(head) = &self.top else {
            return Err(Exception::custom("a model that embeds text has no logits"));
        };
        let logits = head.forward(hidden, None)?;
        if self.logit_factor == 1.0 && self.logit_cap.is_none() {
            return Ok(logits);
        }
        let (factor, soft_cap) = (self.logit_factor, self.logit_cap);
        self.backend.rowwise(&Rowwise { factor, soft_cap, ..Rowwise::of(&logits) })
    }
}
