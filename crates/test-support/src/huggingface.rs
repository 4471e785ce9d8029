//! Folders as Hugging Face publishes models.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::safetensors::safetensors;

/// Writes a folder with two shards, two end tokens and a list of templates. The store accepts it; no worker can run it.
///
/// # Panics
/// It can't be written.
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
