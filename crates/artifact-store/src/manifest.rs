//! What an artifact is made of: the file `artifacts/<digest>.json`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{Digest, Quantization};

/// The format number this code writes and the only one it reads.
pub(crate) const FORMAT: u32 = 1;

/// Architectures that embed text and never generate it, by their `model_type`.
const ENCODERS: [&str; 4] = ["bert", "modernbert", "roberta", "xlm-roberta"];

/// One stored model: everything a worker needs to load it, without looking
/// into the blobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this structure.
    pub format: u32,
    /// Where the bytes came from.
    pub source: Source,
    /// What import changed, in order. Empty: the bytes are as the source had them.
    pub transforms: Vec<Transform>,
    /// Of an adapter the artifact that it adapts; a model has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// Of an adapter `adapter_config.json` as mlx-lm writes it; of a model Hugging Face `config.json`, with `"quantization"` as mlx-community
    /// writes it (defaults plus an entry per module that differs).
    pub config: serde_json::Value,
    /// Jinja source of the default chat template.
    pub chat_template: Option<String>,
    /// Further templates by name (`tool_use`, …), where a model has several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub named_chat_templates: BTreeMap<String, String>,
    /// Text of the token that begins a sequence; templates call it `bos_token`.
    pub bos_token: Option<String>,
    /// Text of the token that ends a sequence; templates call it `eos_token`.
    pub eos_token: Option<String>,
    /// Texts of further special tokens, by the names that templates have for them: `unk_token`, `pad_token`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub special_tokens: BTreeMap<String, String>,
    /// Every token that ends a generation, ascending.
    pub eos_token_ids: Vec<u32>,
    /// How a model of sentence-transformers makes an embedding of its hidden states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbeddingConfig>,
    /// The files, each a blob.
    pub files: Vec<FileEntry>,
    /// Every tensor of every weights file.
    pub tensors: Vec<TensorEntry>,
}

/// Where an artifact came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Format of what was imported.
    pub format: SourceFormat,
    /// SHA-256 of the imported file, where it was a single file.
    pub digest: Option<Digest>,
}

/// What kind of thing was imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceFormat {
    /// A single llama.cpp file.
    Gguf,
    /// A folder with `config.json`, `tokenizer.json` and safetensors files.
    HuggingFace,
    /// A folder with `adapter_config.json` and `adapters.safetensors`, as mlx-lm writes adapters.
    MlxAdapter,
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes adapters.
    PeftAdapter,
}

/// A change that import made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// GGUF blocks, or matrices that another program has packed, became MLX affine packing: same values, other layout.
    RepackAffine,
    /// MXFP4 blocks became MLX's packing of that name: same values, other layout.
    RepackMicroScaled,
    /// 1 was taken from the weights of normalizations, to which the writer of a GGUF file adds it for Gemma.
    SubtractOne,
    /// Rows of q and k went back to Hugging Face's order (`traditional = false` RoPE).
    UnpermuteRope,
    /// Blocks that MLX's packing cannot hold became numbers of a float type, rounded to it.
    Dequantize {
        /// GGUF types of the blocks, sorted.
        from: Vec<String>,
        /// The float type.
        to: safetensors::Dtype,
    },
    /// Dense matrices became MLX affine packing, rounded as `mx.quantize` rounds.
    Quantize(Quantization),
    /// Tensors moved inside their file, so that each starts at a multiple of its element's size.
    Align,
    /// The factors of the rotary frequencies (a tensor in GGUF) became `rope_scaling`.
    RecoverRopeScaling,
    /// Matrices of experts that were stored as one, in turn, became matrices of their own, and their bytes MLX's packing: same
    /// values, other layout.
    SplitExperts,
    /// What only the tokenizer's settings say, of further tokens and of those around a text, was written to `tokenizer.json`.
    AddTokens,
    /// An adapter's matrices got mlx-lm's names and were transposed: same values.
    ConvertAdapter,
}

/// What becomes of the hidden states of a text's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingConfig {
    /// How one vector is made of them.
    pub pooling: Pooling,
    /// Whether it is divided by its length.
    pub normalize: bool,
    /// Most tokens of a text, if the model's context is not the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// What the vector goes through between the two, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dense: Vec<DenseModule>,
}

/// A matrix behind the pooling, with an activation: the tensors `<name>.linear.weight` `[outputs, inputs]` and, if there is a
/// bias, `<name>.linear.bias`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseModule {
    /// That of its folder in the source: `2_Dense`.
    pub name: String,
    /// Numbers of a vector before it.
    pub inputs: u32,
    /// Numbers of a vector behind it.
    pub outputs: u32,
    /// Whether a bias is added.
    pub bias: bool,
    /// What the sums go through.
    pub activation: DenseActivation,
}

/// What the outputs of a [`DenseModule`] go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenseActivation {
    /// Nothing.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
}

/// How one vector is made of those of a text's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// It is the first one's, which mostly is a special token for that.
    FirstToken,
    /// It is the mean of all.
    Mean,
    /// It is the last one's.
    LastToken,
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// What the file is for.
    pub role: FileRole,
    /// Its file name in the source, or the one import gave it.
    pub name: String,
    /// The blob that holds it.
    pub blob: Digest,
    /// Bytes.
    pub size: u64,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// A safetensors file.
    Weights,
    /// `tokenizer.json` of the tokenizers library.
    Tokenizer,
    /// A settings file of the source, kept as it was; the manifest already
    /// holds what loading needs from it.
    Settings,
}

impl FileEntry {
    /// The folder of a weights file that has one: the name of a module behind the model. In the manifest it is the prefix of the
    /// module's tensors.
    pub(crate) fn module(&self) -> Option<&str> {
        self.name.split_once('/').filter(|_| self.role == FileRole::Weights).map(|(module, _)| module)
    }
}

/// One tensor in a weights file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Hugging Face name, for example `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Element type, under its safetensors name.
    pub dtype: safetensors::Dtype,
    /// Row-major shape.
    pub shape: Vec<u64>,
    /// Index into [`Manifest::files`].
    pub file: usize,
    /// Bytes from the start of the *file* (not of its data part).
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// For people, as the end of "import …".
impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RepackAffine => f.write_str("repacked quantized matrices for MLX, values unchanged"),
            Self::RepackMicroScaled => f.write_str("repacked MXFP4 matrices for MLX, values unchanged"),
            Self::SubtractOne => f.write_str("took 1 from the weights of normalizations"),
            Self::UnpermuteRope => f.write_str("put the rows of q and k back in Hugging Face's order"),
            Self::Dequantize { from, to } => write!(f, "turned {} into {to}", from.join(", ")),
            Self::Quantize(quantization) => write!(f, "quantized dense matrices to {quantization}"),
            Self::Align => f.write_str("moved tensors to aligned places"),
            Self::RecoverRopeScaling => f.write_str("turned rotary factors into rope_scaling"),
            Self::ConvertAdapter => f.write_str("gave the adapter's matrices mlx-lm's names and order"),
            Self::SplitExperts => f.write_str("took apart the experts' matrices for MLX, values unchanged"),
            Self::AddTokens => f.write_str("wrote to tokenizer.json which tokens its settings add"),
        }
    }
}

impl Manifest {
    /// The bytes that are stored, and whose SHA-256 names the artifact:
    /// JSON with sorted keys and no spaces.
    pub fn canonical_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        value.sort_all_objects();
        serde_json::to_vec(&value)
    }

    /// Bytes of the distinct blobs this artifact uses.
    pub fn size(&self) -> u64 {
        self.blobs().values().sum()
    }

    /// The distinct blobs with their sizes.
    pub fn blobs(&self) -> BTreeMap<Digest, u64> {
        self.files.iter().map(|file| (file.blob, file.size)).collect()
    }

    /// `model_type` of the configuration.
    pub fn architecture(&self) -> Option<&str> {
        self.config.get("model_type")?.as_str()
    }

    /// Whether the model embeds text instead of generating it: it is an encoder, or of sentence-transformers.
    pub fn embeds(&self) -> bool {
        let is_encoder = |architecture| ENCODERS.contains(&architecture);
        self.base.is_none() && (self.embedding.is_some() || self.architecture().is_some_and(is_encoder))
    }

    /// How many numbers an embedding has, as the files say; `None`: it has none, or they do not say.
    pub fn embedding_size(&self) -> Option<u64> {
        if !self.embeds() {
            return None;
        }
        let dense = self.embedding.as_ref().and_then(|embedding| embedding.dense.last());
        let said =
            |name: &str| self.config[name].as_u64().or_else(|| self.config["text_config"][name].as_u64());
        dense.map(|module| module.outputs.into()).or_else(|| said("hidden_size"))
    }

    /// What makes this manifest unusable, if anything: every index and range
    /// that a loader would follow is checked here, once.
    pub(crate) fn defect(&self) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("format {} where this program reads {FORMAT}", self.format));
        }
        for tensor in &self.tensors {
            let Some(file) = self.files.get(tensor.file) else {
                return Some(format!(
                    "tensor `{}` is in file {}, which is missing",
                    tensor.name, tensor.file
                ));
            };
            let end = tensor.offset.checked_add(tensor.len);
            if file.role != FileRole::Weights || end.is_none_or(|end| end > file.size) {
                return Some(format!("tensor `{}` does not lie inside `{}`", tensor.name, file.name));
            }
            if byte_len(tensor.dtype, &tensor.shape) != Some(tensor.len) {
                return Some(format!("the length of tensor `{}` does not fit its shape", tensor.name));
            }
        }
        None
    }
}

/// Bytes of a tensor, or `None` if the number overflows or is not whole.
pub(crate) fn byte_len(dtype: safetensors::Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}
