//! A vocabulary of byte-level byte-pair encoding (GPT-2, Llama 3, Qwen, SmolLM), which brings its own merges.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    GgufError,
    metadata::{Metadata, required},
    vocabulary::{CONTROL, Parts, USER_DEFINED, Vocabulary},
};

/// How llama 3 splits text before merging; digits in groups of three.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits.
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What `tokenizer.ggml.pre` stands for.
struct Flavour {
    pre_tokenizer: Value,
    normalizer: Value,
    /// A piece that is a token as a whole is not merged up to it.
    ignore_merges: bool,
    /// Whether a text begins with the bos token if the metadata does not say.
    add_bos: bool,
}

/// The parts of `tokenizer.json` that this kind of vocabulary decides.
///
/// # Errors
/// For pre-tokenizers that are not known: a wrong one gives wrong tokens without any error.
pub(super) fn parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Parts, GgufError> {
    let flavour = Flavour::named(required(metadata.text("tokenizer.ggml.pre")?, "tokenizer.ggml.pre")?)?;
    let merges = required(metadata.texts("tokenizer.ggml.merges")?, "tokenizer.ggml.merges")?;
    let merges =
        merges.into_iter().map(|merge| check_merge(merge, &vocabulary.ids)).collect::<Result<Vec<_>, _>>()?;
    Ok(Parts {
        normalizer: flavour.normalizer,
        pre_tokenizer: flavour.pre_tokenizer,
        decoder: byte_level(true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": flavour.ignore_merges,
            "vocab": vocabulary.json(),
            "merges": merges,
        }),
        added: vec![CONTROL, USER_DEFINED],
        add_bos: flavour.add_bos,
    })
}

impl Flavour {
    fn named(pre: &str) -> Result<Self, GgufError> {
        let plain = |pre_tokenizer| Self {
            pre_tokenizer,
            normalizer: Value::Null,
            ignore_merges: false,
            add_bos: false,
        };
        Ok(match pre {
            "smollm" => {
                plain(sequence([json!({ "type": "Digits", "individual_digits": true }), byte_level(true)]))
            }
            "gpt-2" | "default" => plain(byte_level(true)),
            "llama-bpe" => Self { ignore_merges: true, add_bos: true, ..plain(split(LLAMA3_SPLIT)) },
            "qwen2" => Self { normalizer: json!({ "type": "NFC" }), ..plain(split(QWEN2_SPLIT)) },
            other => {
                return Err(GgufError::Unsupported(format!(
                    "its pre-tokenizer `{other}` is not known (smollm, llama-bpe, qwen2, gpt-2 and default are); \
                     import the original safetensors folder instead"
                )));
            }
        })
    }
}

/// The two tokens of a merge. Both, and what they make, must be tokens.
fn check_merge<'a>(merge: &'a str, ids: &HashMap<&str, u32>) -> Result<[&'a str; 2], GgufError> {
    let damaged = || GgufError::Damaged(format!("the merge `{merge}` is not of two tokens into one"));
    let (left, right) = merge.split_once(' ').ok_or_else(damaged)?;
    let known = |token: &str| ids.contains_key(token);
    if known(left) && known(right) && known(&format!("{left}{right}")) {
        Ok([left, right])
    } else {
        Err(damaged())
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

fn split(regex: &str) -> Value {
    let split =
        json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    sequence([split, byte_level(false)])
}

fn sequence(steps: [Value; 2]) -> Value {
    json!({ "type": "Sequence", "pretokenizers": steps })
}
