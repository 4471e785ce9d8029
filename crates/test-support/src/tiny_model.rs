//! A model of a few thousand weights, which loads and answers at once. What it says means nothing.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};

use crate::safetensors::{RawTensor, raw_safetensors};

const HIDDEN: usize = 64;
const INNER: usize = 128;
const HEADS: usize = 2;
const VOCABULARY: usize = 64;

/// Writes a folder as Hugging Face publishes models: llama, one layer, float32, words `w0`, `w1`, … as tokens.
///
/// # Panics
/// The folder can't be written.
pub fn write_tiny_model(folder: &Path) {
    write_model(folder, &tiny_config());
}

/// The configuration of [`write_tiny_model`].
pub fn tiny_config() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0,
        "tie_word_embeddings": true, "eos_token_id": 0,
    })
}

/// The same with another configuration: as many layers as that says.
///
/// # Panics
/// The folder can't be written.
pub fn write_model(folder: &Path, config: &Value) {
    let layers = config["num_hidden_layers"].as_u64().unwrap();
    write_words(folder, config, &weights(layers));
}

/// Writes a folder of a model with such a configuration whose layers keep states: lfm2, with a convolution and an attention.
///
/// # Panics
/// The folder can't be written.
pub fn write_tiny_hybrid(folder: &Path) {
    let mut config = tiny_config();
    for (name, value) in [
        ("model_type", json!("lfm2")),
        ("architectures", json!(["Lfm2ForCausalLM"])),
        ("num_hidden_layers", json!(2)),
        ("max_position_embeddings", json!(4096)),
        ("norm_eps", json!(1e-5)),
        ("block_dim", json!(HIDDEN)),
        ("block_ff_dim", json!(INNER)),
        ("block_auto_adjust_ff_dim", json!(false)),
        ("full_attn_idxs", json!([1])),
        ("conv_L_cache", json!(3)),
        ("conv_bias", json!(false)),
    ] {
        config[name] = value;
    }
    let shapes = [
        ("embed_tokens", vec![VOCABULARY, HIDDEN]),
        ("embedding_norm", vec![HIDDEN]),
        ("layers.0.conv.conv", vec![HIDDEN, 1, 3]),
        ("layers.0.conv.in_proj", vec![3 * HIDDEN, HIDDEN]),
        ("layers.0.conv.out_proj", vec![HIDDEN, HIDDEN]),
        ("layers.1.self_attn.q_proj", vec![HIDDEN, HIDDEN]),
        ("layers.1.self_attn.k_proj", vec![HIDDEN, HIDDEN]),
        ("layers.1.self_attn.v_proj", vec![HIDDEN, HIDDEN]),
        ("layers.1.self_attn.out_proj", vec![HIDDEN, HIDDEN]),
        ("layers.1.self_attn.q_layernorm", vec![HIDDEN / HEADS]),
        ("layers.1.self_attn.k_layernorm", vec![HIDDEN / HEADS]),
    ];
    let mut shapes: BTreeMap<String, Vec<usize>> =
        shapes.into_iter().map(|(name, shape)| (format!("model.{name}.weight"), shape)).collect();
    for layer in 0..2 {
        for (part, shape) in [
            ("feed_forward.w1", vec![INNER, HIDDEN]),
            ("feed_forward.w2", vec![HIDDEN, INNER]),
            ("feed_forward.w3", vec![INNER, HIDDEN]),
            ("ffn_norm", vec![HIDDEN]),
            ("operator_norm", vec![HIDDEN]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{part}.weight"), shape);
        }
    }
    let value = |name: &str, index: usize| {
        let salt: usize = name.bytes().map(usize::from).sum();
        let value = ((index * 37 + salt * 11) % 101) as f32 / 50.0 - 1.0;
        if name.contains("norm") { 1.0 + value / 4.0 } else { value / 3.0 }
    };
    write_words(folder, &config, &safetensors(&shapes, value));
}

/// Writes a folder with these weights. Its tokens are words.
fn write_words(folder: &Path, config: &Value, weights: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    let template = "{% for message in messages %}{{ message.content }} {% endfor %}";
    for (name, content) in [
        ("config.json", config.clone()),
        ("tokenizer.json", tokenizer()),
        ("tokenizer_config.json", json!({ "chat_template": template, "eos_token": "w0" })),
    ] {
        fs::write(folder.join(name), content.to_string()).unwrap();
    }
    fs::write(folder.join("model.safetensors"), weights).unwrap();
}

/// A file of float32 with these shapes, whose numbers follow from their tensor's name and their place.
pub(crate) fn safetensors(
    shapes: &BTreeMap<String, Vec<usize>>,
    value: impl Fn(&str, usize) -> f32,
) -> Vec<u8> {
    let tensors: Vec<RawTensor<'_>> = shapes
        .iter()
        .map(|(name, shape)| {
            let count: usize = shape.iter().product();
            let data = (0..count).flat_map(|index| value(name, index).to_le_bytes()).collect();
            (name.as_str(), "F32", shape.iter().map(|&size| size as u64).collect(), data)
        })
        .collect();
    raw_safetensors(&tensors, 0)
}

/// Writes a folder with an adapter of such a model, as mlx-lm does. Another `seed` makes another adapter.
///
/// # Panics
/// The folder can't be written.
pub fn write_tiny_adapter(folder: &Path, seed: usize) {
    const RANK: usize = 2;
    fs::create_dir_all(folder).unwrap();
    let parameters = json!({ "rank": RANK, "scale": 20.0, "dropout": 0.0 });
    let config = json!({ "fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters });
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let modules = [
        ("self_attn.v_proj", HIDDEN, HIDDEN),
        ("mlp.up_proj", HIDDEN, INNER),
        ("mlp.down_proj", INNER, HIDDEN),
    ];
    let shapes = modules.iter().flat_map(|(module, inputs, outputs)| {
        let name = |part: &str| format!("model.layers.0.{module}.{part}");
        [(name("lora_a"), [*inputs, RANK]), (name("lora_b"), [RANK, *outputs])]
    });
    let shapes: Vec<_> = shapes.collect();
    let value = |index: usize| ((index * (29 + 12 * seed) % 97) as f32 - 48.0) / 60.0;
    let tensors: Vec<RawTensor<'_>> = shapes
        .iter()
        .map(|(name, shape)| {
            let data = (0..shape[0] * shape[1]).flat_map(|index| value(index).to_le_bytes()).collect();
            (name.as_str(), "F32", shape.map(|size| size as u64).to_vec(), data)
        })
        .collect();
    fs::write(folder.join("adapters.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
}

fn tokenizer() -> Value {
    let vocabulary: Map<String, Value> = (0..VOCABULARY).map(|id| (format!("w{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w1" },
    })
}

/// A safetensors file of small numbers. Layers behind the first one change nothing, so that models which differ in their
/// number agree on every token.
fn weights(layers: u64) -> Vec<u8> {
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ]);
    for layer in 0..layers {
        let shapes = [
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
        ];
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend(shapes.map(|(part, shape)| (name(part), shape)));
    }
    let is_output = |name: &str| name.contains("o_proj") || name.contains("down_proj");
    let is_silent = |name: &str| is_output(name) && !name.contains("layers.0.");
    let value = |name: &str, index: usize| {
        let factor = if is_silent(name) { 0.0 } else { 1.0 };
        factor * (((index * 37 % 101) as f32 - 50.0) / 500.0)
    };
    safetensors(&tensors, value)
}
