//! Small random llamas: as a folder to import, and computed plainly in f64.

use std::{collections::BTreeMap, fs, path::Path};

use half::{bf16, f16};
use serde_json::{Value, json};

pub(crate) mod reference;
mod small_floats;

/// What a tiny model is like.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    pub(crate) context: usize,
    /// Group size and bits of every matrix.
    pub(crate) quantization: Option<(usize, usize)>,
    /// MLX's name for the packing.
    pub(crate) mode: &'static str,
    /// Those of the embedding, where they are others.
    pub(crate) embedding: Option<(usize, usize)>,
    /// Matrices that are not quantized.
    pub(crate) dense: Float,
    /// An own head, where it is not quantized and of another type.
    pub(crate) head: Option<Float>,
    /// Scales and biases of quantized matrices.
    pub(crate) scales: Float,
    pub(crate) norms: Float,
    pub(crate) tied: bool,
    pub(crate) bias: bool,
    pub(crate) rope_theta: f64,
    pub(crate) rope_scaling: Value,
}

/// A type of stored floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            hidden: 64,
            inner: 128,
            layers: 2,
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
            vocab: 101,
            context: 512,
            quantization: None,
            mode: "affine",
            embedding: None,
            dense: Float::F32,
            head: None,
            scales: Float::F16,
            norms: Float::F32,
            tied: true,
            bias: false,
            rope_theta: 10_000.0,
            rope_scaling: Value::Null,
        }
    }
}

impl Spec {
    /// The type of most of the matrices or their scales, in which MLX's operations compute.
    pub(crate) fn activations(&self) -> Float {
        if self.quantization.is_some() { self.scales } else { self.dense }
    }

    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "attention_bias": self.bias,
            "mlp_bias": self.bias,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "tie_word_embeddings": self.tied,
            "eos_token_id": 0,
        });
        if let Some((group_size, bits)) = self.quantization {
            config["quantization"] = json!({ "group_size": group_size, "bits": bits, "mode": self.mode });
            if let Some((group_size, bits)) = self.embedding {
                config["quantization"]["model.embed_tokens"] =
                    json!({ "group_size": group_size, "bits": bits });
            }
        }
        config
    }
}

/// A tensor as stored.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A model: its configuration, its tensors as stored, and the numbers they stand for.
pub(crate) struct Tiny {
    pub(crate) spec: Spec,
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Row-major, by the name of the module (`model.norm`, `….q_proj`, `….q_proj.bias`).
    pub(crate) values: BTreeMap<String, Vec<f64>>,
    /// Spaces behind the header beyond what aligns the data.
    pub(crate) header_excess: usize,
    random: SplitMix,
}

impl Float {
    /// The nearest number of this type.
    fn rounded(self, value: f64) -> f64 {
        match self {
            Self::F32 => f64::from(value as f32),
            Self::F16 => f16::from_f64(value).to_f64(),
            Self::Bf16 => bf16::from_f64(value).to_f64(),
        }
    }

    /// Of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    pub(crate) fn tensor(self, shape: Vec<usize>, values: &[f64]) -> Tensor {
        let (dtype, bytes) = match self {
            Self::F32 => ("F32", values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()),
            Self::F16 => ("F16", values.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect()),
            Self::Bf16 => ("BF16", values.iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect()),
        };
        Tensor { dtype, shape, bytes }
    }
}

impl Tiny {
    pub(crate) fn new(spec: Spec, seed: u64) -> Self {
        let config = spec.config();
        let mut tiny = Self {
            spec,
            config,
            tensors: BTreeMap::new(),
            values: BTreeMap::new(),
            header_excess: 0,
            random: SplitMix(seed),
        };
        let s = tiny.spec.clone();
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        tiny.stored("model.embed_tokens", s.vocab, s.hidden, s.embedding.or(s.quantization), s.dense);
        for layer in 0..s.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            tiny.norm(&name("input_layernorm"));
            tiny.norm(&name("post_attention_layernorm"));
            tiny.matrix(&name("self_attn.q_proj"), q, s.hidden, s.bias);
            tiny.matrix(&name("self_attn.k_proj"), kv, s.hidden, s.bias);
            tiny.matrix(&name("self_attn.v_proj"), kv, s.hidden, s.bias);
            tiny.matrix(&name("self_attn.o_proj"), s.hidden, q, s.bias);
            tiny.matrix(&name("mlp.gate_proj"), s.inner, s.hidden, s.bias);
            tiny.matrix(&name("mlp.up_proj"), s.inner, s.hidden, s.bias);
            tiny.matrix(&name("mlp.down_proj"), s.hidden, s.inner, s.bias);
        }
        tiny.norm("model.norm");
        if !s.tied {
            let quantization = if s.head.is_some() { None } else { s.quantization };
            tiny.stored("lm_head", s.vocab, s.hidden, quantization, s.head.unwrap_or(s.dense));
        }
        tiny
    }

    fn norm(&mut self, name: &str) {
        let values: Vec<f64> = (0..self.spec.hidden).map(|_| self.random.between(0.5, 1.5)).collect();
        self.dense(name, "weight", vec![self.spec.hidden], values, self.spec.norms);
    }

    fn matrix(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.stored(name, outputs, inputs, self.spec.quantization, self.spec.dense);
        if bias {
            let values = (0..outputs).map(|_| self.random.between(-0.3, 0.3)).collect();
            self.dense(name, "bias", vec![outputs], values, Float::F32);
        }
    }

    fn stored(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        quantization: Option<(usize, usize)>,
        dense: Float,
    ) {
        // Spread so that activations keep their size from layer to layer.
        let spread = 2.0 / (inputs as f64).sqrt();
        match quantization {
            None => {
                let values = (0..outputs * inputs).map(|_| self.random.between(-spread, spread)).collect();
                self.dense(name, "weight", vec![outputs, inputs], values, dense);
            }
            Some((group_size, bits)) if self.spec.mode != "affine" => {
                self.small_floats(name, [outputs, inputs], group_size, bits, spread);
            }
            Some((group_size, bits)) => self.affine(name, outputs, inputs, group_size, bits, spread),
        }
    }

    /// Stores `values` and keeps what is left of them after rounding to the stored type.
    fn dense(&mut self, name: &str, kind: &str, shape: Vec<usize>, values: Vec<f64>, float: Float) {
        let kept = values.iter().map(|&value| float.rounded(value)).collect();
        self.tensors.insert(format!("{name}.{kind}"), float.tensor(shape, &values));
        let key = if kind == "bias" { format!("{name}.bias") } else { name.to_owned() };
        self.values.insert(key, kept);
    }

    fn affine(&mut self, name: &str, outputs: usize, inputs: usize, group: usize, bits: usize, spread: f64) {
        let levels = (1_u32 << bits) as f64;
        let float = self.spec.scales;
        let (mut packed, mut scales, mut biases, mut kept) = (vec![], vec![], vec![], vec![]);
        for _ in 0..outputs * inputs / group {
            let scale = float.rounded(self.random.between(0.5, 1.5) * 2.0 * spread / levels);
            let bias = float.rounded(-scale * levels / 2.0);
            let words: Vec<u32> = (0..group * bits / 32).map(|_| self.random.next() as u32).collect();
            let bit = |i: usize| words[i / 32] >> (i % 32) & 1;
            for first in (0..group * bits).step_by(bits) {
                let q = (0..bits).fold(0, |q, i| q | bit(first + i) << i);
                kept.push(scale * f64::from(q) + bias);
            }
            packed.extend(words);
            scales.push(scale);
            biases.push(bias);
        }
        let words = packed.iter().flat_map(|w: &u32| w.to_le_bytes()).collect();
        let packed = Tensor { dtype: "U32", shape: vec![outputs, inputs * bits / 32], bytes: words };
        self.tensors.insert(format!("{name}.weight"), packed);
        let groups = vec![outputs, inputs / group];
        self.tensors.insert(format!("{name}.scales"), float.tensor(groups.clone(), &scales));
        self.tensors.insert(format!("{name}.biases"), float.tensor(groups, &biases));
        self.values.insert(name.to_owned(), kept);
    }

    /// Writes `config.json`, `tokenizer.json` and `model.safetensors`.
    pub(crate) fn write(&self, folder: &Path) {
        write_folder(folder, &self.config, self.spec.vocab, &self.tensors, self.header_excess);
    }
}

/// Writes `config.json`, `tokenizer.json` and `model.safetensors`, with some spaces behind its header.
pub(crate) fn write_folder(
    folder: &Path,
    config: &Value,
    vocab: usize,
    tensors: &BTreeMap<String, Tensor>,
    header_excess: usize,
) {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer(vocab).to_string()).unwrap();
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let entry =
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8) + header_excess, b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// A tokenizer with as many tokens; its text plays no part.
pub(crate) fn tokenizer(vocab: usize) -> Value {
    let vocab: serde_json::Map<String, Value> = (0..vocab).map(|id| (format!("t{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" },
    })
}

/// A small generator of random numbers: the same on every machine.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn tokens(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| (self.next() % vocab as u64) as u32).collect()
    }
}
