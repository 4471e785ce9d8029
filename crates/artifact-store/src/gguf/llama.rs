//! The `llama` architecture: metadata to `config.json`, tensors to their
//! Hugging Face names, shapes and order of rows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    GgufError,
    metadata::{Metadata, required},
    reader::{Gguf, Tensor},
    rope,
    types::{Form, GROUP},
};
use crate::Quantization;

/// Most layers, the largest of any other dimension, and the longest context that are believed.
const MAX_LAYERS: u64 = 4096;
const MAX_DIM: u64 = 1 << 24;
const MAX_CONTEXT: u64 = 1 << 30;

/// Sizes of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dims {
    hidden: u64,
    intermediate: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    vocab: u64,
}

/// What to make of one tensor of the file.
#[derive(Clone, Debug)]
pub(crate) struct Mapped<'a> {
    pub(crate) tensor: &'a Tensor,
    /// Hugging Face name without `.weight` or `.bias`.
    pub(crate) module: String,
    /// `weight` or `bias`.
    pub(crate) field: &'static str,
    /// The rows of each head come interleaved and go back to halves: rows a head.
    pub(crate) unpermute: Option<u64>,
    /// It is quantized, to this.
    pub(crate) quantize: Option<Quantization>,
}

/// The whole model, checked for completeness and shapes.
#[derive(Clone, Debug)]
pub(crate) struct Model<'a> {
    /// As Hugging Face's `config.json`.
    pub(crate) config: Value,
    pub(crate) tensors: Vec<Mapped<'a>>,
    /// Its `rope_scaling` comes from a tensor.
    pub(crate) rope_recovered: bool,
}

/// A tensor the architecture may have.
struct Expected {
    module: String,
    field: &'static str,
    shape: Vec<u64>,
    unpermute: Option<u64>,
    optional: bool,
}

/// The configuration and every tensor. `rope_factors` are the content of [`rope::FACTORS`]; `quantize` is for matrices
/// that are stored densely otherwise.
pub(crate) fn map<'a>(
    gguf: &'a Gguf,
    rope_factors: Option<&[f32]>,
    quantize: Option<Quantization>,
) -> Result<Model<'a>, GgufError> {
    let dims = Dims::read(gguf)?;
    let mut expected = expected_tensors(&dims);
    let mut tensors = Vec::with_capacity(gguf.tensors.len());
    for tensor in gguf.tensors.iter().filter(|tensor| tensor.name != rope::FACTORS) {
        let Some(place) = expected.remove(&tensor.name) else {
            return Err(GgufError::Unsupported(format!(
                "tensor `{}` is not one that the llama architecture has",
                tensor.name
            )));
        };
        if tensor.shape != place.shape {
            return Err(GgufError::Damaged(format!(
                "tensor `{}` has shape {:?} where the metadata asks for {:?}",
                tensor.name, tensor.shape, place.shape
            )));
        }
        let Expected { module, field, unpermute, .. } = place;
        let quantize = quantize.filter(|quantization| {
            let whole_groups = |row: &u64| row.is_multiple_of(quantization.group_size.into());
            tensor.shape.len() == 2
                && tensor.kind.dense_dtype().is_some()
                && tensor.shape.last().is_some_and(whole_groups)
        });
        let quantize = quantize.map(|quantization| quantization.of(&module, dims.layers));
        tensors.push(Mapped { tensor, module, field, unpermute, quantize });
    }
    if let Some((name, _)) = expected.iter().find(|(_, place)| !place.optional) {
        return Err(GgufError::Damaged(format!("tensor `{name}` is missing")));
    }
    let (config, rope_recovered) = config(&gguf.metadata, rope_factors, &dims, &tensors)?;
    Ok(Model { config, tensors, rope_recovered })
}

impl Dims {
    fn read(gguf: &Gguf) -> Result<Self, GgufError> {
        let metadata = &gguf.metadata;
        let optional = |key: &str| size(metadata, key, MAX_DIM);
        let dim = |key: &str| required(optional(key)?, key);
        if metadata.unsigned("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(GgufError::Unsupported(
                "mixtures of experts cannot be imported from GGUF".to_owned(),
            ));
        }
        let hidden = dim("llama.embedding_length")?;
        let heads = dim("llama.attention.head_count")?;
        let kv_heads = optional("llama.attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = optional("llama.attention.key_length")?.unwrap_or(hidden / heads);
        let value_dim = optional("llama.attention.value_length")?.unwrap_or(head_dim);
        let rotated = optional("llama.rope.dimension_count")?.unwrap_or(head_dim);
        if rotated != head_dim || value_dim != head_dim || head_dim % 2 != 0 || heads % kv_heads != 0 {
            return Err(GgufError::Unsupported(format!(
                "{heads} query and {kv_heads} key heads of {head_dim} (values {value_dim}, rotated {rotated}) \
                 are not a shape this program's llama has"
            )));
        }
        let layers = "llama.block_count";
        let layers = required(size(metadata, layers, MAX_LAYERS)?, layers)?;
        let embedding = gguf.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        let vocab = embedding.and_then(|tensor| tensor.shape.first().copied());
        let vocab =
            vocab.ok_or_else(|| GgufError::Damaged("tensor `token_embd.weight` is missing".to_owned()))?;
        let intermediate = dim("llama.feed_forward_length")?;
        Ok(Self { hidden, intermediate, layers, heads, kv_heads, head_dim, vocab })
    }
}

/// A number from 1 to `most`.
fn size(metadata: &Metadata, key: &str, most: u64) -> Result<Option<u64>, GgufError> {
    match metadata.unsigned(key)? {
        Some(size) if !(1..=most).contains(&size) => {
            Err(GgufError::Damaged(format!("`{key}` is {size}, which is not from 1 to {most}")))
        }
        size => Ok(size),
    }
}

/// By their names in the file.
fn expected_tensors(dims: &Dims) -> BTreeMap<String, Expected> {
    let &Dims { hidden, intermediate, layers, heads, kv_heads, head_dim, vocab } = dims;
    let mut expected = BTreeMap::new();
    let mut add = |name: String, module: String, shape: Vec<u64>, unpermute, optional| {
        if shape.len() == 2 && module.contains("layers") {
            let bias = vec![shape[0]];
            let place =
                Expected { module: module.clone(), field: "bias", shape: bias, unpermute, optional: true };
            expected.insert(format!("{name}.bias"), place);
        }
        expected.insert(
            format!("{name}.weight"),
            Expected { module, field: "weight", shape, unpermute, optional },
        );
    };
    add("token_embd".into(), "model.embed_tokens".into(), vec![vocab, hidden], None, false);
    add("output_norm".into(), "model.norm".into(), vec![hidden], None, false);
    add("output".into(), "lm_head".into(), vec![vocab, hidden], None, true);
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    for layer in 0..layers {
        let matrices = [
            ("attn_norm", "input_layernorm", vec![hidden], None),
            ("attn_q", "self_attn.q_proj", vec![q, hidden], Some(head_dim)),
            ("attn_k", "self_attn.k_proj", vec![kv, hidden], Some(head_dim)),
            ("attn_v", "self_attn.v_proj", vec![kv, hidden], None),
            ("attn_output", "self_attn.o_proj", vec![hidden, q], None),
            ("ffn_norm", "post_attention_layernorm", vec![hidden], None),
            ("ffn_gate", "mlp.gate_proj", vec![intermediate, hidden], None),
            ("ffn_up", "mlp.up_proj", vec![intermediate, hidden], None),
            ("ffn_down", "mlp.down_proj", vec![hidden, intermediate], None),
        ];
        for (name, module, shape, unpermute) in matrices {
            add(
                format!("blk.{layer}.{name}"),
                format!("model.layers.{layer}.{module}"),
                shape,
                unpermute,
                false,
            );
        }
    }
    expected
}

/// Also whether its `rope_scaling` comes from a tensor.
fn config(
    metadata: &Metadata,
    rope_factors: Option<&[f32]>,
    dims: &Dims,
    mapped: &[Mapped<'_>],
) -> Result<(Value, bool), GgufError> {
    let has = |module: &str, field: &str| {
        mapped.iter().any(|tensor| tensor.field == field && tensor.module.ends_with(module))
    };
    let base = metadata.positive("llama.rope.freq_base")?.unwrap_or(10000.0);
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    let context = "llama.context_length";
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": dims.hidden,
        "intermediate_size": dims.intermediate,
        "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads,
        "num_key_value_heads": dims.kv_heads,
        "head_dim": dims.head_dim,
        "vocab_size": dims.vocab,
        "rms_norm_eps": required(metadata.positive(epsilon)?, epsilon)?,
        "rope_theta": base,
        "rope_traditional": false,
        "max_position_embeddings": required(size(metadata, context, MAX_CONTEXT)?, context)?,
        "tie_word_embeddings": !has("lm_head", "weight"),
        "attention_bias": has("q_proj", "bias"),
        "mlp_bias": has("up_proj", "bias"),
    });
    for key in ["bos_token_id", "eos_token_id"] {
        if let Some(id) = metadata.unsigned(&format!("tokenizer.ggml.{key}"))? {
            config[key] = id.into();
        }
    }
    let recovered =
        rope_factors.map(|factors| rope::scaling(factors, base, dims.head_dim)).transpose()?.flatten();
    let rope_recovered = recovered.is_some();
    match (rope_scaling(metadata)?, recovered) {
        (Some(_), Some(_)) => {
            return Err(GgufError::Unsupported(
                "it scales its rotary frequencies twice, by metadata and by a tensor".to_owned(),
            ));
        }
        (None, None) => {}
        (Some(scaling), None) | (None, Some(scaling)) => config["rope_scaling"] = scaling,
    }
    if let Some(quantization) = quantization(mapped) {
        config["quantization"] = quantization;
    }
    Ok((config, rope_recovered))
}

fn rope_scaling(metadata: &Metadata) -> Result<Option<Value>, GgufError> {
    let key = "llama.rope.scaling.factor";
    // Older files have another name for it, and where the type is not said, it is linear.
    let factor = match metadata.positive(key)? {
        None => metadata.positive("llama.rope.scale_linear")?,
        factor => factor,
    };
    match metadata.text("llama.rope.scaling.type")? {
        Some("none") => Ok(None),
        None => Ok(factor
            .filter(|factor| *factor != 1.0)
            .map(|factor| json!({ "rope_type": "linear", "factor": factor }))),
        Some("linear") => Ok(Some(json!({ "rope_type": "linear", "factor": required(factor, key)? }))),
        Some("yarn") => {
            let original = "llama.rope.scaling.original_context_length";
            Ok(Some(json!({
                "rope_type": "yarn",
                "factor": required(factor, key)?,
                "original_max_position_embeddings": required(size(metadata, original, MAX_CONTEXT)?, original)?,
            })))
        }
        Some(other) => {
            Err(GgufError::Unsupported(format!("its rotary scaling `{other}` is not one this program knows")))
        }
    }
}

/// The most frequent packing for all, and an entry for each module that differs; modules without scales are dense.
/// `None` if all are.
fn quantization(mapped: &[Mapped<'_>]) -> Option<Value> {
    let mut frequency: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for packing in mapped.iter().filter_map(Mapped::packing) {
        *frequency.entry(packing).or_default() += 1;
    }
    let (&common, _) = frequency.iter().max_by_key(|&(&packing, &count)| (count, packing))?;
    let describe = |(bits, group_size): (u64, u64)| json!({ "group_size": group_size, "bits": bits });
    let mut quantization = describe(common);
    for tensor in mapped {
        if let Some(packing) = tensor.packing().filter(|&packing| packing != common) {
            quantization[&tensor.module] = describe(packing);
        }
    }
    Some(quantization)
}

impl Mapped<'_> {
    /// Bits and group size, if it is stored in MLX's packing.
    fn packing(&self) -> Option<(u64, u64)> {
        match (self.quantize, self.tensor.kind.form()) {
            (Some(Quantization { bits, group_size, .. }), _) => Some((bits.into(), group_size.into())),
            (None, Form::Affine { bits, .. }) => Some((bits.into(), GROUP)),
            (None, Form::Dense(_) | Form::Dequantized) => None,
        }
    }
}
