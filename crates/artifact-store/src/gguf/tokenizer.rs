//! The vocabulary in a GGUF file as `tokenizer.json` of the tokenizers library.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    GgufError, byte_level,
    metadata::{Metadata, required},
    sentencepiece,
    vocabulary::{CONTROL, Vocabulary},
};

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
    /// By name; the default one is named `default`.
    pub(crate) chat_templates: BTreeMap<String, String>,
}

impl Tokenizer {
    /// Reads `tokenizer.*`.
    ///
    /// # Errors
    /// For other kinds than byte-level byte-pair encoding and SentencePiece.
    pub(crate) fn read(metadata: &Metadata) -> Result<Self, GgufError> {
        let model = required(metadata.text("tokenizer.ggml.model")?, "tokenizer.ggml.model")?;
        let vocabulary = Vocabulary::read(metadata)?;
        let parts = match model {
            "gpt2" => byte_level::parts(metadata, &vocabulary)?,
            "llama" => sentencepiece::parts(metadata, &vocabulary)?,
            other => {
                return Err(GgufError::Unsupported(format!(
                    "its tokenizer is of kind `{other}`; byte-level BPE (`gpt2`) and SentencePiece (`llama`) can be \
                     imported, for others import the original safetensors folder"
                )));
            }
        };
        let tokens = &vocabulary.tokens;
        let bos = token_at(metadata, "tokenizer.ggml.bos_token_id", tokens)?;
        let eos = token_at(metadata, "tokenizer.ggml.eos_token_id", tokens)?;
        let add_bos = metadata.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(parts.add_bos);
        let post_processor = match bos {
            Some((id, text)) if add_bos => bos_template(id, text),
            _ => Value::Null,
        };
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": vocabulary.added(&parts.added),
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": post_processor,
            "decoder": parts.decoder,
            "model": parts.model,
        });
        let owned = |token: Option<(u32, &str)>| token.map(|(_, text)| text.to_owned());
        Ok(Self {
            json,
            size: tokens.len() as u64,
            bos_token: owned(bos),
            eos_token: owned(eos),
            eos_token_ids: end_tokens(metadata, &vocabulary)?,
            chat_templates: chat_templates(metadata)?,
        })
    }
}

/// The default template, and those that a list names.
fn chat_templates(metadata: &Metadata) -> Result<BTreeMap<String, String>, GgufError> {
    let key = "tokenizer.chat_template";
    let default = metadata.text(key)?.map(|text| ("default".to_owned(), text.to_owned()));
    let mut templates: BTreeMap<String, String> = default.into_iter().collect();
    for name in metadata.texts("tokenizer.chat_templates")?.unwrap_or_default() {
        if let Some(text) = metadata.text(&format!("{key}.{name}"))? {
            templates.insert(name.to_owned(), text.to_owned());
        }
    }
    Ok(templates)
}

fn end_tokens(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Vec<u32>, GgufError> {
    let mut ends = BTreeSet::new();
    for key in END_KEYS {
        ends.extend(token_at(metadata, key, &vocabulary.tokens)?.map(|(id, _)| id));
    }
    for token in END_TOKENS {
        ends.extend(vocabulary.ids.get(token).filter(|&&id| vocabulary.types[id as usize] == CONTROL));
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
