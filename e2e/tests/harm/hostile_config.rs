//! A model whose sizes wrap around, or whose numbers are none, is refused when it is loaded, by the setting to blame.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use test_support::{MODEL, Options, PrivateStore, Server, import};

const KEY: &str = "an-admin-key-for-the-tests";
const HIDDEN: u64 = 64;
const VOCAB: u64 = 320;
const WRAP: u64 = 1 << 32;

/// Changes of a harmless configuration, and the setting that has to be named.
fn hostile() -> Vec<(Value, &'static str)> {
    vec![
        // All of the products are 64 in 32 bits, which is what the tensors have.
        (json!({ "num_attention_heads": 67_108_865, "head_dim": 64 }), "num_attention_heads"),
        (json!({ "num_attention_heads": 2, "head_dim": (WRAP + HIDDEN) / 2 }), "head_dim"),
        (json!({ "num_attention_heads": 1, "head_dim": WRAP + HIDDEN }), "head_dim"),
        (json!({ "num_key_value_heads": 1 << 26 }), "num_key_value_heads"),
        (json!({ "hidden_size": WRAP + HIDDEN }), "hidden_size"),
        (json!({ "intermediate_size": WRAP + HIDDEN }), "intermediate_size"),
        (json!({ "vocab_size": WRAP + VOCAB }), "vocab_size"),
        (json!({ "num_hidden_layers": WRAP + 1 }), "num_hidden_layers"),
        (json!({ "num_hidden_layers": -1 }), "num_hidden_layers"),
        (json!({ "max_position_embeddings": 1_u64 << 40 }), "max_position_embeddings"),
        (json!({ "rope_theta": 1e300 }), "rope_theta"),
        (json!({ "rope_scaling": { "type": "linear", "factor": 1e-300 } }), "rope_scaling.factor"),
        (json!({ "rms_norm_eps": -1 }), "rms_norm_eps"),
    ]
}

#[test]
fn sizes_that_wrap_are_refused_while_another_model_serves() {
    let folder = tempfile::tempdir().unwrap();
    let store = PrivateStore::with_names(&[]);
    let models: Vec<(String, &str)> = hostile()
        .into_iter()
        .enumerate()
        .map(|(index, (changes, setting))| {
            let name = format!("hostile-{index}");
            import(&store.path(), &write(&folder.path().join(&name), changes), &name);
            (name, setting)
        })
        .collect();
    import(&store.path(), &write(&folder.path().join("plain"), json!({})), "plain");

    let environment = vec![("KR_ADMIN_KEY", KEY.to_string())];
    let options = Options { store: Some(store.path()), environment, ..Options::default() };
    let server = Server::start_with(&options);
    let admin = server.client.with_key(KEY);
    let load = |name: &str| admin.post(&format!("/v1/models/{name}/load"), &json!({}));
    for (name, setting) in &models {
        let answer = load(name);
        let message = answer.json["error"]["message"].as_str().unwrap_or_default();
        assert!(answer.status >= 400, "{setting}: {}", answer.json);
        assert!(message.contains(&format!("`{setting}`")), "{setting}: {}", answer.json);
        assert!(!message.contains("signal"), "{setting}: its worker was killed: {message}");
    }
    // The same model without the changes is fine, so that nothing else was refused.
    let plain = load("plain");
    assert_eq!(plain.status, 200, "{}", plain.json);
    let request = json!({ "model": "plain", "prompt": "hello", "max_tokens": 2, "ignore_eos": true });
    assert_eq!(server.client.post("/v1/completions", &request).status, 200);
    assert_eq!(server.client.ask("What is the capital of France?", 16), "The capital of France is Paris.");
    assert_eq!(server.client.get(&format!("/v1/models/{MODEL}")).json["state"], "ready");
}

/// A folder with a model of one layer, all of whose matrices have 64 rows and columns, the embedding's aside.
fn write(folder: &Path, changes: Value) -> PathBuf {
    let mut config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": HIDDEN, "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
        "tie_word_embeddings": true, "eos_token_id": 1,
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    let words: Map<String, Value> = (0..VOCAB).map(|id| (format!("t{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "t0" },
    });
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("model.safetensors"), safetensors()).unwrap();
    folder.to_owned()
}

/// All tensors as F16; every number is 1/16, which any of them may be.
fn safetensors() -> Vec<u8> {
    let layer = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let mut tensors = vec![
        ("model.embed_tokens".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm".to_owned(), vec![HIDDEN]),
        ("model.layers.0.input_layernorm".to_owned(), vec![HIDDEN]),
        ("model.layers.0.post_attention_layernorm".to_owned(), vec![HIDDEN]),
    ];
    tensors.extend(layer.map(|name| (format!("model.layers.0.{name}"), vec![HIDDEN, HIDDEN])));
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        let entry = json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] });
        header.insert(format!("{name}.weight"), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text);
    file.extend(0x2c00_u16.to_le_bytes().repeat(usize::try_from(end / 2).unwrap()));
    file
}
