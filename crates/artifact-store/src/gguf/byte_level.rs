//! A vocabulary of byte-level byte-pair encoding (GPT-2, Llama 3, Qwen, gpt-oss), which brings its own merges.

use std::collections::HashMap;

use serde_json::json;

use super::{
    GgufError,
    metadata::{Metadata, required},
    pre_tokenizer::{PreTokenizer, byte_level},
    vocabulary::{CONTROL, Parts, USER_DEFINED, Vocabulary},
};

/// The parts of `tokenizer.json` that this kind of vocabulary decides.
///
/// # Errors
/// For pre-tokenizers that are not known: a wrong one gives wrong tokens without any error.
pub(super) fn parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Parts, GgufError> {
    let pre_tokenizer =
        PreTokenizer::named(required(metadata.text("tokenizer.ggml.pre")?, "tokenizer.ggml.pre")?)?;
    let merges = required(metadata.texts("tokenizer.ggml.merges")?, "tokenizer.ggml.merges")?;
    let merges =
        merges.into_iter().map(|merge| check_merge(merge, &vocabulary.ids)).collect::<Result<Vec<_>, _>>()?;
    Ok(Parts {
        normalizer: pre_tokenizer.normalizer(),
        pre_tokenizer: pre_tokenizer.json(),
        decoder: byte_level(true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre_tokenizer.ignore_merges,
            "vocab": vocabulary.json(),
            "merges": merges,
        }),
        added: vec![CONTROL, USER_DEFINED],
        add_bos: pre_tokenizer.add_bos,
        add_eos: false,
    })
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
