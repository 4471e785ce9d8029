//! GGUF files, written by the format's definition.

use std::{
    fs,
    path::{Path, PathBuf},
};

use half::f16;

/// Width of [`tiny_llama`].
pub const HIDDEN: u64 = 64;
/// Vocabulary of [`tiny_llama`].
pub const TOKENS: [&str; 6] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab"];
/// Chat template of [`tiny_llama`].
pub const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

const F32: u32 = 0;
const Q4_1: u32 = 3;
const Q8_0: u32 = 8;

/// A GGUF file in parts, so that tests can damage any of them.
#[derive(Clone)]
pub struct Gguf {
    /// Of the format: 3 today.
    pub version: u32,
    /// Key, and type number with value.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// In the order of their data.
    pub tensors: Vec<GgufTensor>,
}

/// A tensor of a [`Gguf`] file.
#[derive(Clone)]
pub struct GgufTensor {
    /// With `.weight`.
    pub name: String,
    /// The fastest dimension first, as in the file.
    pub dims: Vec<u64>,
    /// Number of its type in GGML.
    pub kind: u32,
    /// Its blocks; the file pads them to a multiple of 32 bytes.
    pub data: Vec<u8>,
}

/// A text, as a metadata value.
pub fn text(value: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &raw_text(value)].concat()
}

/// A `u32`, as a metadata value.
pub fn number(value: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

/// An `f32`, as a metadata value.
pub fn float(value: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

/// A boolean, as a metadata value.
pub fn boolean(value: bool) -> Vec<u8> {
    [&7_u32.to_le_bytes()[..], &[u8::from(value)]].concat()
}

/// An array of texts, as a metadata value.
pub fn texts(values: &[&str]) -> Vec<u8> {
    array(8, values.len(), values.iter().flat_map(|value| raw_text(value)).collect())
}

/// An array of `u32`, as a metadata value.
pub fn numbers(values: &[u32]) -> Vec<u8> {
    array(4, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// An array of `f32`, as a metadata value.
pub fn floats(values: &[f32]) -> Vec<u8> {
    array(6, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn array(kind: u32, len: usize, data: Vec<u8>) -> Vec<u8> {
    [&9_u32.to_le_bytes()[..], &kind.to_le_bytes(), &(len as u64).to_le_bytes(), &data].concat()
}

fn raw_text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

/// A llama of one layer, with two query heads and one key head of 32 elements.
pub fn tiny_llama() -> Gguf {
    llama(HIDDEN, 96)
}

/// The same with other sizes.
pub fn llama(hidden: u64, intermediate: u64) -> Gguf {
    let head_dim = hidden / 2;
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(128)),
        ("llama.embedding_length", number(hidden as u32)),
        ("llama.feed_forward_length", number(intermediate as u32)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.attention.layer_norm_rms_epsilon", float(1e-5)),
        ("llama.rope.freq_base", float(100_000.0)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", texts(&TOKENS)),
        ("tokenizer.ggml.token_type", numbers(&[3, 3, 3, 1, 1, 1])),
        ("tokenizer.ggml.merges", texts(&["a b"])),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(2)),
        ("tokenizer.ggml.add_bos_token", boolean(false)),
        ("tokenizer.chat_template", text(TEMPLATE)),
    ];
    let norm = |name: &str| GgufTensor {
        name: format!("{name}.weight"),
        dims: vec![hidden],
        kind: F32,
        data: (0..hidden).flat_map(|i| (i as f32).to_le_bytes()).collect(),
    };
    let tensors = vec![
        matrix("token_embd", TOKENS.len() as u64, hidden, Q8_0),
        norm("output_norm"),
        norm("blk.0.attn_norm"),
        matrix("blk.0.attn_q", hidden, hidden, Q4_1),
        matrix("blk.0.attn_k", head_dim, hidden, Q4_1),
        matrix("blk.0.attn_v", head_dim, hidden, Q4_1),
        matrix("blk.0.attn_output", hidden, hidden, Q4_1),
        norm("blk.0.ffn_norm"),
        matrix("blk.0.ffn_gate", intermediate, hidden, Q4_1),
        matrix("blk.0.ffn_up", intermediate, hidden, Q4_1),
        matrix("blk.0.ffn_down", hidden, intermediate, Q4_1),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).to_vec();
    Gguf { version: 3, metadata, tensors }
}

/// A quantized matrix (type 3 is Q4_1, 8 is Q8_0): every row has its row number as scale and different element values.
pub fn matrix(name: &str, rows: u64, columns: u64, kind: u32) -> GgufTensor {
    let payload = if kind == Q8_0 { 32 } else { 16 };
    let mut data = Vec::new();
    for row in 0..rows {
        for block in 0..columns / 32 {
            data.extend(f16::from_f32(row as f32).to_le_bytes());
            if kind == Q4_1 {
                data.extend(f16::from_f32(-1.0).to_le_bytes());
            }
            data.extend((0..payload).map(|i| (row * 7 + block * 31 + i * 17) as u8));
        }
    }
    GgufTensor { name: format!("{name}.weight"), dims: vec![columns, rows], kind, data }
}

impl Gguf {
    /// Gives a tensor another type and other elements; its shape stays.
    ///
    /// # Panics
    /// There is no such tensor.
    pub fn replace_tensor(&mut self, name: &str, kind: u32, data: Vec<u8>) {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        (tensor.kind, tensor.data) = (kind, data);
    }

    /// Sets or replaces a metadata value.
    pub fn set(&mut self, key: &str, value: Vec<u8>) {
        self.metadata.retain(|(other, _)| other != key);
        self.metadata.push((key.to_owned(), value));
    }

    /// Everything before the tensors' data.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            out.extend(raw_text(key));
            out.extend(value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            out.extend(raw_text(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(32);
        }
        out
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.data);
        }
        out
    }

    /// Writes the file and returns its path.
    ///
    /// # Panics
    /// It can't be written.
    pub fn write(&self, path: &Path) -> PathBuf {
        fs::write(path, self.bytes()).unwrap();
        path.to_owned()
    }
}
