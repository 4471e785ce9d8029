//! A model of a few thousand weights that embeds text. Its embeddings mean nothing.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};

use crate::safetensors::{RawTensor, raw_safetensors};

const HIDDEN: usize = 64;
const INNER: usize = 128;
const WORDS: usize = 60;
const POSITIONS: usize = 32;

/// Writes a folder as sentence-transformers publishes models: BERT, one layer, float32, words `w0`, `w1`, … as tokens behind
/// `[CLS]` (0) and before `[SEP]` (1), the normalized mean of all tokens, of which there may be 16. Its embeddings have 64
/// numbers, and may be cut to 32.
///
/// # Panics
/// The folder can't be written.
pub fn write_tiny_encoder(folder: &Path) {
    fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let modules = json!([
        module("Transformer", ""),
        module("Pooling", "1_Pooling"),
        module("Normalize", "2_Normalize")
    ]);
    for (name, content) in [
        ("config.json", config()),
        ("tokenizer.json", tokenizer()),
        ("modules.json", modules),
        ("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false})),
        ("sentence_bert_config.json", json!({"max_seq_length": 16, "do_lower_case": false})),
    ] {
        fs::write(folder.join(name), content.to_string()).unwrap();
    }
    fs::write(folder.join("model.safetensors"), weights()).unwrap();
}

fn config() -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 4,
        "vocab_size": WORDS + 3, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "pad_token_id": 2, "matryoshka_dimensions": [32, 64],
    })
}

fn tokenizer() -> Value {
    let special = ["[CLS]", "[SEP]", "[UNK]"];
    let words = (0..WORDS).map(|number| format!("w{number}"));
    let all = special.iter().map(|text| (*text).to_owned()).chain(words);
    let vocabulary: Map<String, Value> =
        all.zip(0..).map(|(text, id): (String, u32)| (text, json!(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .zip(0..)
        .map(|(text, id): (&&str, u32)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let place = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let token = |text: &str, id: u32| json!({"id": text, "ids": [id], "tokens": [text]});
    json!({
        "version": "1.0", "added_tokens": added,
        // As sentence-transformers leaves them in the file.
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2,
                    "pad_type_id": 0, "pad_token": "[UNK]"},
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [place("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, place("[SEP]")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": token("[CLS]", 0), "[SEP]": token("[SEP]", 1)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
}

fn weights() -> Vec<u8> {
    let mut tensors = BTreeMap::from([
        ("embeddings.word_embeddings.weight".to_owned(), vec![WORDS + 3, HIDDEN]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, HIDDEN]),
    ]);
    for (part, outputs, inputs) in [
        ("attention.self.query", HIDDEN, HIDDEN),
        ("attention.self.key", HIDDEN, HIDDEN),
        ("attention.self.value", HIDDEN, HIDDEN),
        ("attention.output.dense", HIDDEN, HIDDEN),
        ("intermediate.dense", INNER, HIDDEN),
        ("output.dense", HIDDEN, INNER),
    ] {
        tensors.insert(format!("encoder.layer.0.{part}.weight"), vec![outputs, inputs]);
        tensors.insert(format!("encoder.layer.0.{part}.bias"), vec![outputs]);
    }
    for part in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"] {
        tensors.insert(format!("{part}.LayerNorm.weight"), vec![HIDDEN]);
        tensors.insert(format!("{part}.LayerNorm.bias"), vec![HIDDEN]);
    }
    let value = |index: usize, is_norm: bool| {
        let small = ((index * 37 % 101) as f32 - 50.0) / 200.0;
        if is_norm { 1.0 + small } else { small }
    };
    let tensors: Vec<RawTensor<'_>> = tensors
        .iter()
        .map(|(name, shape)| {
            let is_norm = name.ends_with("Norm.weight");
            let count: usize = shape.iter().product();
            let data = (0..count).flat_map(|index| value(index, is_norm).to_le_bytes()).collect();
            (name.as_str(), "F32", shape.iter().map(|&size| size as u64).collect(), data)
        })
        .collect();
    raw_safetensors(&tensors, 0)
}
