//! Small tokenizers of the kinds that models have, for tests.

#![allow(clippy::unwrap_used)]

use serde_json::{Map, Value, json};
use tokenizers::normalizers::ByteLevel;

use super::PromptTokenizer;

pub(super) const SPECIAL: [&str; 6] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "<|user|>"];

/// Bytes and some words; then [`SPECIAL`], and `<think>`, which is added and not special.
pub(crate) fn byte_level() -> Value {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut vocab: Vec<String> = alphabet.iter().map(ToString::to_string).collect();
    let mut merges = Vec::new();
    for (a, b) in [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("Ġ", "Ġ"),
        ("ĠĠ", "ĠĠ"),
        ("ĠĠĠĠ", "ĠĠĠĠ"),
        ("a", "b"),
        ("ab", "ab"),
        ("Ċ", "Ċ"),
        ("<", "|"),
        ("i", "m"),
        ("im", "_"),
        ("Ã", "©"),
        ("e", "n"),
        ("en", "d"),
        ("|", ">"),
        ("Ġ", "a"),
    ] {
        vocab.push(format!("{a}{b}"));
        merges.push(json!([a, b]));
    }
    let vocab: Map<String, Value> =
        vocab.into_iter().enumerate().map(|(id, text)| (text, json!(id))).collect();
    let stage =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added(vocab.len()), "normalizer": null, "pre_tokenizer": stage,
        "post_processor": null, "decoder": stage,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "vocab": vocab, "merges": merges},
    })
}

/// The special tokens of [`harmony`].
pub(crate) const HARMONY: [&str; 7] =
    ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"];

/// [`byte_level`] with the special tokens of gpt-oss, which are its last ones.
pub(crate) fn harmony() -> Value {
    let mut tokenizer = byte_level();
    let first = next_id(&tokenizer);
    if let Some(added) = tokenizer["added_tokens"].as_array_mut() {
        added.extend(HARMONY.into_iter().zip(first..).map(|(text, id)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        }));
    }
    tokenizer
}

/// The first id without a token.
fn next_id(tokenizer: &Value) -> u64 {
    let ids = tokenizer["added_tokens"].as_array().into_iter().flatten();
    ids.filter_map(|token| token["id"].as_u64()).max().unwrap() + 1
}

/// As SentencePiece cuts: "▁" for spaces, one before the text, bytes for unknown characters.
pub(crate) fn sentencepiece() -> Value {
    let mut vocab: Vec<String> = ["<unk>".to_owned()].into();
    vocab.extend((0..=255).map(|byte: u8| format!("<0x{byte:02X}>")));
    vocab.extend("▁abcdehintu<>|_/s[]IN".chars().map(|c| c.to_string()));
    let mut merges = Vec::new();
    for (a, b) in [
        ("▁", "▁"),
        ("▁▁", "▁▁"),
        ("t", "h"),
        ("th", "e"),
        ("▁", "the"),
        ("a", "b"),
        ("ab", "ab"),
        ("▁", "a"),
    ] {
        vocab.push(format!("{a}{b}"));
        merges.push(json!([a, b]));
    }
    let vocab: Map<String, Value> =
        vocab.into_iter().enumerate().map(|(id, text)| (text, json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added(vocab.len()),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "vocab": vocab, "merges": merges},
    })
}

/// One token a word.
pub(crate) fn words() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(3), "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "the": 1, "a": 2}, "unk_token": "<unk>"},
    })
}

pub(crate) fn load(tokenizer: &Value) -> PromptTokenizer {
    PromptTokenizer::from_bytes(tokenizer.to_string().as_bytes()).unwrap()
}

/// Number of tokens of [`small`].
pub(crate) const SMALL: u32 = 12;

/// A few tokens of every kind that matters to what a client sees: spaces, parts of characters, a special token, and
/// one id without a token.
pub(crate) fn small() -> Value {
    // In the alphabet of byte-level tokenizers "Ġ" is a space, "âĤ¬" the bytes of "€", "Ã©" those of "é".
    let tokens = ["Ġ", "Ġa", "a", "b", "ab", "â", "Ĥ", "¬", "Ã", "©"];
    let vocab: Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, text)| (text.to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 10, "content": "<|x|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "vocab": vocab, "merges": []},
    })
}

fn added(first: usize) -> Value {
    let token = |(n, text): (usize, &str)| {
        json!({"id": first + n, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": text != "<think>"})
    };
    SPECIAL.into_iter().chain(["<think>"]).enumerate().map(token).collect()
}
