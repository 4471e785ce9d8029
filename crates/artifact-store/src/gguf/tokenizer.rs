//! The vocabulary in a GGUF file as `tokenizer.json` of the tokenizers library.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::{
    GgufError,
    metadata::{Metadata, required},
};

/// `tokenizer.ggml.token_type` of tokens that are not text: `<|im_end|>`.
const CONTROL: u64 = 3;
/// Of tokens that are matched before anything is split.
const USER_DEFINED: u64 = 4;

/// Control tokens that end a generation whatever the metadata says, since
/// metadata names one end token where chat models have several.
const END_TOKENS: [&str; 17] = [
    "</s>",
    "<EOT>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eos|>",
    "<eos>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
    "[EOT]",
];
/// Metadata keys that name end tokens.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// How llama 3 splits text before merging; digits in groups of three.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits.
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Everything about tokens that an artifact keeps.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    pub(crate) json: Value,
    /// Number of tokens; ids are below it.
    pub(crate) size: u64,
    pub(crate) bos_token: Option<String>,
    pub(crate) eos_token: Option<String>,
    /// Ascending.
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) chat_template: Option<String>,
}

/// What `tokenizer.ggml.pre` stands for.
struct Flavour {
    pre_tokenizer: Value,
    normalizer: Value,
    /// A piece that is a token as a whole is not merged up to it.
    ignore_merges: bool,
    /// Whether a text begins with the bos token if the metadata does not say.
    add_bos: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.*`.
    ///
    /// # Errors
    /// For other kinds than byte-level BPE, and pre-tokenizers that are not
    /// known: a wrong one gives wrong tokens without any error.
    pub(crate) fn read(metadata: &Metadata) -> Result<Self, GgufError> {
        let model = required(metadata.text("tokenizer.ggml.model")?, "tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(GgufError::Unsupported(format!(
                "its tokenizer is of kind `{model}`; byte-level BPE (`gpt2`) can be imported, for others \
                 import the original safetensors folder"
            )));
        }
        let flavour = Flavour::named(required(metadata.text("tokenizer.ggml.pre")?, "tokenizer.ggml.pre")?)?;
        let tokens = required(metadata.texts("tokenizer.ggml.tokens")?, "tokenizer.ggml.tokens")?;
        let types = metadata.unsigneds("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1; tokens.len()]);
        if types.len() != tokens.len() {
            return Err(GgufError::Damaged(format!("{} tokens and {} types", tokens.len(), types.len())));
        }
        let ids = vocabulary(&tokens)?;
        let merges = required(metadata.texts("tokenizer.ggml.merges")?, "tokenizer.ggml.merges")?;
        let merges =
            merges.into_iter().map(|merge| check_merge(merge, &ids)).collect::<Result<Vec<_>, _>>()?;

        let bos = token_at(metadata, "tokenizer.ggml.bos_token_id", &tokens)?;
        let eos = token_at(metadata, "tokenizer.ggml.eos_token_id", &tokens)?;
        let add_bos = metadata.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(flavour.add_bos);
        let post_processor = match bos {
            Some((id, text)) if add_bos => bos_template(id, text),
            _ => Value::Null,
        };
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added_tokens(&tokens, &types),
            "normalizer": flavour.normalizer,
            "pre_tokenizer": flavour.pre_tokenizer,
            "post_processor": post_processor,
            "decoder": byte_level(true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": flavour.ignore_merges,
                "vocab": tokens.iter().zip(0_u32..).map(|(token, id)| ((*token).to_owned(), id.into())).collect::<Map<_, _>>(),
                "merges": merges,
            },
        });
        let owned = |token: Option<(u32, &str)>| token.map(|(_, text)| text.to_owned());
        Ok(Self {
            json,
            size: tokens.len() as u64,
            bos_token: owned(bos),
            eos_token: owned(eos),
            eos_token_ids: end_tokens(metadata, &tokens, &types, &ids)?,
            chat_template: metadata.text("tokenizer.chat_template")?.map(str::to_owned),
        })
    }
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

/// Each token's id; a token that occurs twice could not be told apart.
fn vocabulary<'a>(tokens: &[&'a str]) -> Result<HashMap<&'a str, u32>, GgufError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (token, id) in tokens.iter().zip(0..) {
        if ids.insert(*token, id).is_some() {
            return Err(GgufError::Damaged(format!("the token `{token}` occurs twice")));
        }
    }
    Ok(ids)
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

fn added_tokens(tokens: &[&str], types: &[u64]) -> Vec<Value> {
    let all = tokens.iter().zip(types).zip(0_u32..);
    let added = all.filter(|((_, kind), _)| [CONTROL, USER_DEFINED].contains(*kind));
    let describe = |((content, kind), id): ((&&str, &u64), u32)| {
        json!({
            "id": id,
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": *kind == CONTROL,
        })
    };
    added.map(describe).collect()
}

fn end_tokens(
    metadata: &Metadata,
    tokens: &[&str],
    types: &[u64],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<u32>, GgufError> {
    let mut ends = BTreeSet::new();
    for key in END_KEYS {
        ends.extend(token_at(metadata, key, tokens)?.map(|(id, _)| id));
    }
    for token in END_TOKENS {
        ends.extend(ids.get(token).filter(|&&id| types[id as usize] == CONTROL));
    }
    Ok(ends.into_iter().collect())
}

/// The token that a metadata key names by id.
fn token_at<'a>(
    metadata: &Metadata,
    key: &str,
    tokens: &[&'a str],
) -> Result<Option<(u32, &'a str)>, GgufError> {
    let Some(id) = metadata.unsigned(key)? else { return Ok(None) };
    let token = usize::try_from(id).ok().and_then(|index| tokens.get(index));
    match (u32::try_from(id), token) {
        (Ok(id), Some(text)) => Ok(Some((id, text))),
        _ => Err(GgufError::Damaged(format!("`{key}` is {id}, which is not a token"))),
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

fn bos_template(id: u32, text: &str) -> Value {
    let bos = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let part = |name: &str, type_id: u8| json!({ "Sequence": { "id": name, "type_id": type_id } });
    json!({
        "type": "TemplateProcessing",
        "single": [bos, part("A", 0)],
        "pair": [bos, part("A", 0), { "SpecialToken": { "id": text, "type_id": 1 } }, part("B", 1)],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    })
}
