//! A model that always says the same: which token follows, the one before says alone.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

use crate::tiny_model::safetensors;

/// Numbers of a hidden state, one for each token.
const WIDTH: usize = 64;

/// What a scripted model says.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// Its special tokens. The first one ends an output.
    pub special: &'a [&'a str],
    /// Its other tokens, found in prompts as they stand there. Other texts have no tokens.
    pub words: &'a [&'a str],
    /// Its chat template.
    pub template: &'a str,
    /// Which token follows which.
    pub follows: &'a [(&'a str, &'a str)],
}

impl Script<'_> {
    fn id(&self, token: &str) -> usize {
        let mut tokens = self.special.iter().chain(self.words);
        tokens.position(|it| *it == token).unwrap_or_else(|| panic!("no token {token:?}")) + 1
    }

    fn tokenizer(&self) -> Value {
        let tokens = self.special.iter().chain(self.words);
        let added = tokens.enumerate().map(|(index, token)| {
            json!({"id": index + 1, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": index < self.special.len()})
        });
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "added_tokens": added.collect::<Value>(),
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                "byte_fallback": false, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "vocab": {"a": 0}, "merges": []},
        })
    }

    /// A llama whose layer adds nothing. A token's state is its own number alone, and the head has the next one's there.
    fn weights(&self) -> Vec<u8> {
        let follows: Vec<(usize, usize)> =
            self.follows.iter().map(|(before, next)| (self.id(before), self.id(next))).collect();
        let square = vec![WIDTH, WIDTH];
        let parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
        let parts = parts.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
        let parts = parts.map(|part| (format!("model.layers.0.{part}.weight"), square.clone()));
        let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"];
        let norms = norms.map(|norm| (format!("model.{norm}.weight"), vec![WIDTH]));
        let ends =
            ["model.embed_tokens.weight", "lm_head.weight"].map(|end| (end.to_owned(), square.clone()));
        let shapes: BTreeMap<String, Vec<usize>> = parts.chain(norms).chain(ends).collect();
        safetensors(&shapes, |name, index| {
            let (row, column) = (index / WIDTH, index % WIDTH);
            let is_one = match name {
                "model.embed_tokens.weight" => row == column,
                "lm_head.weight" => follows.contains(&(column, row)),
                name => name.contains("norm"),
            };
            if is_one { 1.0 } else { 0.0 }
        })
    }
}

/// Writes a folder as Hugging Face publishes models.
///
/// # Panics
/// The folder can't be written, or the script is of tokens that there are not.
pub fn write_scripted_model(folder: &Path, script: &Script<'_>) {
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH,
        "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "vocab_size": WIDTH, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 1,
    });
    assert!(script.special.len() + script.words.len() < WIDTH, "too many tokens");
    fs::create_dir_all(folder).unwrap();
    let settings = json!({"chat_template": script.template, "eos_token": script.special[0]});
    for (name, content) in
        [("config.json", config), ("tokenizer.json", script.tokenizer()), ("tokenizer_config.json", settings)]
    {
        fs::write(folder.join(name), content.to_string()).unwrap();
    }
    fs::write(folder.join("model.safetensors"), script.weights()).unwrap();
}
