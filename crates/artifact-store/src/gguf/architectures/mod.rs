//! The architectures that can be imported: metadata to `config.json`, tensors to their Hugging Face names, shapes and order
//! of rows.
//!
//! ```text
//! sizes     numbers of the metadata, checked
//! layout    tables of a layer's tensors
//! rotation  what is said of a stretched context
//! effects   settings that would change the answers
//! llama …   one file a family: which of these it has, and what else its configuration says
//! ```

mod effects;
mod gemma;
mod gpt_oss;
mod layout;
mod llama;
mod phi3;
mod qwen;
mod rotation;
mod sizes;
mod smollm3;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    GgufError, RopeFactors,
    metadata::required,
    reader::{Gguf, Tensor},
    rope,
    types::{Form, GROUP, TensorType},
};
use crate::Quantization;
use layout::{Difference, Layout};
use rotation::RopeScaling;
use sizes::{Sizes, Source};

/// What to make of one tensor of the file.
#[derive(Clone, Debug)]
pub(crate) struct Mapped<'a> {
    pub(crate) tensor: &'a Tensor,
    /// Hugging Face name without `.weight` or `.bias`.
    pub(crate) module: String,
    /// `weight`, `bias` or `sinks`.
    pub(crate) field: &'static str,
    /// The rows of each head come interleaved and go back to halves: rows a head.
    pub(crate) unpermute: Option<u64>,
    /// 1 was added to its elements, and is taken away.
    pub(crate) plus_one: bool,
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

/// What an architecture says of a file.
struct Blueprint {
    /// `model_type` and class of Hugging Face's.
    model_type: &'static str,
    class: &'static str,
    sizes: Sizes,
    /// Of each layer.
    layer: Vec<Layout>,
    rope: RopeScaling,
    /// Settings that not all architectures have.
    config: Vec<(&'static str, Value)>,
}

/// Reads a file's metadata.
type Describe = fn(&Source<'_>, &RopeFactors) -> Result<Blueprint, GgufError>;

/// By `general.architecture`.
const REGISTRY: [(&str, Describe); 9] = [
    ("gemma2", gemma::describe_2),
    ("gemma3", gemma::describe_3),
    ("gpt-oss", gpt_oss::describe),
    ("llama", llama::describe),
    ("phi3", phi3::describe),
    ("qwen2", qwen::describe_2),
    ("qwen3", qwen::describe_3),
    ("qwen3moe", qwen::describe_3_moe),
    ("smollm3", smollm3::describe),
];

/// A tensor that the file has to have, or may have.
struct Place {
    module: String,
    field: &'static str,
    shape: Vec<u64>,
    difference: Difference,
    optional: bool,
}

/// The configuration and every tensor; `quantize` is for matrices that are stored densely otherwise.
///
/// # Errors
/// An architecture that is not known, settings that cannot be, and tensors that are missing, unknown or misshapen.
pub(crate) fn map<'a>(
    gguf: &'a Gguf,
    factors: &RopeFactors,
    quantize: Option<Quantization>,
) -> Result<Model<'a>, GgufError> {
    let (prefix, describe) = find(gguf)?;
    let source = Source { gguf, prefix };
    effects::check(&source)?;
    let blueprint = describe(&source, factors)?;
    let mut places = blueprint.places();
    let mut tensors = Vec::with_capacity(gguf.tensors.len());
    for tensor in gguf.tensors.iter().filter(|tensor| !rope::is_factors(&tensor.name)) {
        let place = places.remove(&tensor.name).ok_or_else(|| {
            GgufError::Unsupported(format!(
                "tensor `{}` is not one that the architecture `{prefix}` has here",
                tensor.name
            ))
        })?;
        tensors.push(place.filled_with(tensor, &blueprint.sizes, quantize)?);
    }
    if let Some((name, _)) = places.iter().find(|(_, place)| !place.optional) {
        return Err(GgufError::Damaged(format!("tensor `{name}` is missing")));
    }
    let rope_recovered = blueprint.rope.recovered;
    let config = blueprint.config(&source, &tensors)?;
    Ok(Model { config, tensors, rope_recovered })
}

/// The name of a file's architecture, and what reads it.
///
/// # Errors
/// One that is not in the [`REGISTRY`].
fn find(gguf: &Gguf) -> Result<(&str, Describe), GgufError> {
    let key = "general.architecture";
    let found = required(gguf.metadata.text(key)?, key)?;
    if let Some((_, describe)) = REGISTRY.iter().find(|(name, _)| *name == found) {
        return Ok((found, *describe));
    }
    let names = REGISTRY.map(|(name, _)| format!("`{name}`")).join(", ");
    Err(GgufError::Unsupported(format!(
        "its architecture is `{found}`; from GGUF {names} can be imported, for others use the original safetensors folder"
    )))
}

impl Blueprint {
    /// By their names in the file.
    fn places(&self) -> BTreeMap<String, Place> {
        let Sizes { hidden, layers, vocab, .. } = self.sizes;
        let norms_differ = self.layer.iter().any(|layout| layout.difference == Difference::PlusOne);
        let place = |module: &str, shape: &[u64], optional: bool| Place {
            module: module.to_owned(),
            field: "weight",
            shape: shape.to_vec(),
            difference: Difference::Nothing,
            optional,
        };
        let difference = if norms_differ { Difference::PlusOne } else { Difference::Nothing };
        let norm = Place { difference, ..place("model.norm", &[hidden], false) };
        let mut places = BTreeMap::from([
            ("token_embd.weight".to_owned(), place("model.embed_tokens", &[vocab, hidden], false)),
            ("output_norm.weight".to_owned(), norm),
            ("output.weight".to_owned(), place("lm_head", &[vocab, hidden], true)),
        ]);
        for layer in 0..layers {
            for layout in &self.layer {
                let place = Place {
                    module: format!("model.layers.{layer}.{}", layout.module),
                    field: layout.field,
                    shape: layout.shape.iter().map(|dim| dim.of(&self.sizes)).collect(),
                    difference: layout.difference,
                    optional: layout.optional,
                };
                places.insert(layout.full_name(layer), place);
            }
        }
        places
    }

    fn config(self, source: &Source<'_>, mapped: &[Mapped<'_>]) -> Result<Value, GgufError> {
        let sizes = self.sizes;
        let mut config = json!({
            "architectures": [self.class],
            "model_type": self.model_type,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "vocab_size": sizes.vocab,
            "rms_norm_eps": sizes.epsilon,
            "rope_theta": sizes.rope_base,
            "max_position_embeddings": sizes.context,
            "tie_word_embeddings": !source.has("output.weight"),
        });
        let mut more: Map<String, Value> =
            self.config.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        more.extend(self.rope.value.map(|value| ("rope_scaling".to_owned(), value)));
        for key in ["bos_token_id", "eos_token_id"] {
            let id = source.metadata().unsigned(&format!("tokenizer.ggml.{key}"))?;
            more.extend(id.map(|id| (key.to_owned(), id.into())));
        }
        more.extend(quantization(mapped).map(|value| ("quantization".to_owned(), value)));
        for (name, value) in more {
            config[name] = value;
        }
        Ok(config)
    }
}

impl Place {
    fn filled_with<'a>(
        self,
        tensor: &'a Tensor,
        sizes: &Sizes,
        quantize: Option<Quantization>,
    ) -> Result<Mapped<'a>, GgufError> {
        let Self { module, field, shape, difference, .. } = self;
        if tensor.shape != shape {
            return Err(GgufError::Damaged(format!(
                "tensor `{}` has shape {:?} where the metadata asks for {shape:?}",
                tensor.name, tensor.shape
            )));
        }
        let is_matrix = field == "weight" && shape.len() >= 2;
        if !is_matrix && !matches!(tensor.kind.form(), Form::Dense(_)) {
            return Err(GgufError::Unsupported(format!(
                "tensor `{}` has type {}, and only matrices may be quantized",
                tensor.name,
                tensor.kind.name()
            )));
        }
        if difference == Difference::PlusOne && tensor.kind != TensorType::F32 {
            let (name, kind) = (&tensor.name, tensor.kind.name());
            return Err(GgufError::Unsupported(format!(
                "tensor `{name}` has type {kind}, and is F32 in such files"
            )));
        }
        let whole_groups = |quantization: &Quantization| {
            tensor.shape.last().is_some_and(|row| row.is_multiple_of(quantization.group_size.into()))
        };
        let quantize = quantize
            .filter(|quantization| {
                is_matrix && tensor.kind.dense_dtype().is_some() && whole_groups(quantization)
            })
            .map(|quantization| quantization.of(&module, sizes.layers));
        let unpermute = (difference == Difference::Interleaved).then_some(sizes.head_dim);
        let plus_one = difference == Difference::PlusOne;
        Ok(Mapped { tensor, module, field, unpermute, plus_one, quantize })
    }
}

/// How a module is packed, as `config.json` says it: mode, bits and group size.
type Packing = (&'static str, u64, u64);

/// The most frequent packing for all, and an entry for each module that differs; modules without scales are dense.
/// `None` if all are.
fn quantization(mapped: &[Mapped<'_>]) -> Option<Value> {
    let mut frequency: BTreeMap<Packing, usize> = BTreeMap::new();
    for packing in mapped.iter().filter_map(Mapped::packing) {
        *frequency.entry(packing).or_default() += 1;
    }
    let (&common, _) = frequency.iter().max_by_key(|&(&packing, &count)| (count, packing))?;
    let describe = |(mode, bits, group_size): Packing| match mode {
        "affine" => json!({ "group_size": group_size, "bits": bits }),
        _ => json!({ "group_size": group_size, "bits": bits, "mode": mode }),
    };
    let mut quantization = describe(common);
    for tensor in mapped {
        if let Some(packing) = tensor.packing().filter(|&packing| packing != common) {
            quantization[&tensor.module] = describe(packing);
        }
    }
    Some(quantization)
}

impl Mapped<'_> {
    /// If it is stored in one of MLX's packings.
    fn packing(&self) -> Option<Packing> {
        match (self.quantize, self.tensor.kind.form()) {
            (Some(Quantization { bits, group_size, .. }), _) => {
                Some(("affine", bits.into(), group_size.into()))
            }
            (None, Form::Affine { bits, .. }) => Some(("affine", bits.into(), GROUP)),
            (None, Form::MicroScaled) => Some(("mxfp4", 4, GROUP)),
            (None, Form::Dense(_) | Form::Dequantized) => None,
        }
    }
}
