//! Small models, made on the spot: a GGUF file and a Hugging Face folder.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use artifact_store::{Artifact, Dtype, Imported, Store, StoreError};
use half::f16;
use serde_json::json;
use tempfile::TempDir;

pub const HIDDEN: u64 = 64;
pub const TOKENS: [&str; 6] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab"];
pub const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

const F32: u32 = 0;
const Q4_1: u32 = 3;
const Q8_0: u32 = 8;

/// A GGUF file in pieces, so that tests can spoil any of them.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    /// Key, and type number with value.
    pub metadata: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<GgufTensor>,
}

#[derive(Clone)]
pub struct GgufTensor {
    pub name: String,
    /// The fastest dimension first, as in the file.
    pub dims: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

pub fn text(value: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &raw_text(value)].concat()
}

pub fn number(value: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

pub fn float(value: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

pub fn boolean(value: bool) -> Vec<u8> {
    [&7_u32.to_le_bytes()[..], &[u8::from(value)]].concat()
}

pub fn texts(values: &[&str]) -> Vec<u8> {
    array(8, values.len(), values.iter().flat_map(|value| raw_text(value)).collect())
}

pub fn numbers(values: &[u32]) -> Vec<u8> {
    array(4, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    array(6, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn array(kind: u32, len: usize, data: Vec<u8>) -> Vec<u8> {
    [&9_u32.to_le_bytes()[..], &kind.to_le_bytes(), &(len as u64).to_le_bytes(), &data].concat()
}

fn raw_text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

/// A llama of one layer, two query heads and one key head of 32: every row of
/// a matrix has its row number as scale and different element values.
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
    /// Replaces a tensor by one of the same shape with other elements.
    pub fn replace_tensor(&mut self, name: &str, kind: u32, data: Vec<u8>) {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        (tensor.kind, tensor.data) = (kind, data);
    }

    pub fn set(&mut self, key: &str, value: Vec<u8>) {
        self.metadata.retain(|(other, _)| other != key);
        self.metadata.push((key.to_owned(), value));
    }

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

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.data);
        }
        out
    }

    pub fn write(&self, path: &Path) -> PathBuf {
        fs::write(path, self.bytes()).unwrap();
        path.to_owned()
    }
}

/// A tensor of a safetensors file: name, type, shape, bytes.
pub type RawTensor<'a> = (&'a str, &'a str, Vec<u64>, Vec<u8>);

/// A safetensors file of F32 tensors, by the format's definition.
pub fn safetensors(tensors: &[(&str, Vec<f32>)]) -> Vec<u8> {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, values)| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (*name, "F32", vec![values.len() as u64], bytes)
        })
        .collect();
    raw_safetensors(&tensors, 0)
}

/// A safetensors file whose data start `shift` bytes after a multiple of 8.
pub fn raw_safetensors(tensors: &[RawTensor<'_>], shift: usize) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] });
        header.insert((*name).to_owned(), entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8) + shift, b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A folder with two shards, two end tokens and a list of templates.
pub fn huggingface_folder(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let json_files = [
        ("config.json", json!({ "model_type": "llama", "eos_token_id": 2, "vocab_size": 3 })),
        ("generation_config.json", json!({ "eos_token_id": [2, 7] })),
        (
            "tokenizer.json",
            json!({
                "model": { "type": "BPE", "vocab": {}, "merges": [] },
                "added_tokens": [{ "id": 9, "content": "<end>" }],
            }),
        ),
        (
            "tokenizer_config.json",
            json!({
                "bos_token": "<begin>",
                "eos_token": { "content": "<end>" },
                "chat_template": [
                    { "name": "default", "template": "plain" },
                    { "name": "tool_use", "template": "tools" },
                ],
            }),
        ),
        (
            "model.safetensors.index.json",
            json!({ "weight_map": { "a": "model-1.safetensors", "b": "model-2.safetensors" } }),
        ),
    ];
    for (name, content) in json_files {
        fs::write(folder.join(name), serde_json::to_vec(&content).unwrap()).unwrap();
    }
    fs::write(folder.join("model-1.safetensors"), safetensors(&[("a", vec![1.0, 2.0])])).unwrap();
    fs::write(folder.join("model-2.safetensors"), safetensors(&[("b", vec![3.0; 5])])).unwrap();
    folder.to_owned()
}

/// Imports bytes as a GGUF file, under the name `tiny`, into a store in `folder`.
pub fn import_bytes(folder: &Path, bytes: &[u8]) -> Result<(Store, Imported), StoreError> {
    let source = folder.join("tiny.gguf");
    fs::write(&source, bytes).unwrap();
    let store = Store::open(folder.join("store"))?;
    let imported = store.import(&source, Some("tiny"), &mut |_| ControlFlow::Continue(()))?;
    Ok((store, imported))
}

pub fn import_gguf(gguf: &Gguf) -> (TempDir, Artifact) {
    let folder = TempDir::new().unwrap();
    let (store, _) = import_bytes(folder.path(), &gguf.bytes()).unwrap();
    let artifact = store.resolve("tiny").unwrap();
    (folder, artifact)
}

/// The bytes of a tensor with its type and shape, read through the manifest alone.
pub fn stored_tensor(artifact: &Artifact, name: &str) -> (Dtype, Vec<u64>, Vec<u8>) {
    let entry = artifact.manifest.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let file = &artifact.manifest.files[entry.file];
    artifact.open_blob(file).unwrap();
    let bytes = fs::read(artifact.blob_path(file)).unwrap();
    let range = entry.offset as usize..(entry.offset + entry.len) as usize;
    (entry.dtype, entry.shape.clone(), bytes[range].to_vec())
}

/// A file of `tests/vectors`.
pub fn vectors(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every regular file below a folder, relative to it, sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
