//! Models of any size, made up: what the store does depends on a file's size, not on its values.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Sizes of a layer, as in models of one to three billion parameters.
const HIDDEN: u64 = 2048;
const INNER: u64 = 5632;
const HEADS: u64 = 32;
const KV_HEADS: u64 = 8;
const HEAD_DIM: u64 = 64;
/// Small, so that nearly all bytes are in the layers.
const VOCAB: u64 = 256;

/// Bytes of a bfloat16.
const ELEMENT: u64 = 2;
/// So many bytes are made and then written again and again.
const PATTERN: usize = 16 << 20;

/// Makes a folder as Hugging Face publishes models, with about `bytes` of bfloat16 weights of the llama architecture.
/// Returns the size of its weights' file.
pub(super) fn make(folder: &Path, bytes: u64) -> Result<u64> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let fixed = tensors(0).values().map(|shape| len(shape)).sum::<u64>();
    let layer = tensors(1).values().map(|shape| len(shape)).sum::<u64>() - fixed;
    let layers = (bytes.saturating_sub(fixed) / layer).max(1);
    for (name, content) in [
        ("config.json", config(layers)),
        ("tokenizer.json", tokenizer()),
        ("tokenizer_config.json", json!({ "chat_template": "{{ messages[0].content }}" })),
    ] {
        let path = folder.join(name);
        fs::write(&path, content.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let path = folder.join("model.safetensors");
    write_weights(&path, &tensors(layers)).with_context(|| format!("cannot write {}", path.display()))
}

/// Every tensor's shape by its name.
fn tensors(layers: u64) -> BTreeMap<String, Vec<u64>> {
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ]);
    for layer in 0..layers {
        for (part, shape) in [
            ("self_attn.q_proj", vec![HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.k_proj", vec![KV_HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.v_proj", vec![KV_HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HEADS * HEAD_DIM]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
        ] {
            tensors.insert(format!("model.layers.{layer}.{part}.weight"), shape);
        }
    }
    tensors
}

/// Bytes of a tensor.
fn len(shape: &[u64]) -> u64 {
    shape.iter().product::<u64>() * ELEMENT
}

fn config(layers: u64) -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCAB, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 0,
    })
}

/// Words `w0`, `w1`, …: one for each row of the embedding.
fn tokenizer() -> Value {
    let vocabulary: Map<String, Value> = (0..VOCAB).map(|id| (format!("w{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    })
}

/// A safetensors file, on the disk when this returns.
fn write_weights(path: &Path, tensors: &BTreeMap<String, Vec<u64>>) -> Result<u64> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += len(shape);
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, end] });
        header.insert(name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string();
    // The data begins at a multiple of 64 bytes.
    text.extend(std::iter::repeat_n(' ', (64 - (text.len() + 8) % 64) % 64));

    let mut file = File::create(path)?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())?;
    let pattern = pattern();
    let mut left = end;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(pattern.len());
        file.write_all(&pattern[..part])?;
        left -= part as u64;
    }
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Random bfloat16 numbers between 2⁻⁸ and 2⁻⁵ of both signs: ordinary ones, as denormal numbers or infinities would
/// change the speed of an answer.
fn pattern() -> Vec<u8> {
    let mut state: u32 = 1;
    let mut bytes = Vec::with_capacity(PATTERN);
    while bytes.len() < PATTERN {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [_, _, low, high] = state.to_le_bytes();
        bytes.extend([low, 0x3c | (high & 0x80)]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_its_header_says() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let size = make(folder.path(), 1)?;
        let bytes = fs::read(folder.path().join("model.safetensors"))?;
        let (length, rest) = bytes.split_first_chunk::<8>().context("a length")?;
        let length = u64::from_le_bytes(*length) as usize;
        let header: Value = serde_json::from_slice(&rest[..length])?;
        let ends = header.as_object().context("an object")?.values();
        let end = ends.filter_map(|tensor| tensor["data_offsets"][1].as_u64()).max().unwrap_or_default();
        assert_eq!((8 + length) as u64 + end, size);
        assert_eq!((8 + length) % 64, 0);
        assert_eq!(bytes.len() as u64, size);
        Ok(())
    }
}
