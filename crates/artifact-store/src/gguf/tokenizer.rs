//! The vocabulary in a GGUF file as `tokenizer.json` of the tokenizers library.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    GgufError, byte_level,
    metadata::{Metadata, required},
    sentencepiece,
    vocabulary::{CONTROL, Vocabulary},
    wordpiece,
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
/// Tokens of Phi 3 that do not take the spaces that follow them.
const KEEP_SPACES: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];
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
    /// For other kinds than byte-level byte-pair encoding, SentencePiece and WordPiece.
    pub(crate) fn read(metadata: &Metadata) -> Result<Self, GgufError> {
        let model = required(metadata.text("tokenizer.ggml.model")?, "tokenizer.ggml.model")?;
        let vocabulary = Vocabulary::read(metadata)?;
        let parts = match model {
            "gpt2" => byte_level::parts(metadata, &vocabulary)?,
            "llama" => sentencepiece::parts(metadata, &vocabulary)?,
            "bert" => wordpiece::parts(metadata, &vocabulary)?,
            other => {
                return Err(GgufError::Unsupported(format!(
                    "its tokenizer is of kind `{other}`; byte-level BPE (`gpt2`), SentencePiece (`llama`) and WordPiece \
                     (`bert`) can be imported, for others import the original safetensors folder"
                )));
            }
        };
        let token_at = |key: &str| vocabulary.token_at(metadata, &format!("tokenizer.ggml.{key}_token_id"));
        let (bos, eos) = (token_at("bos")?, token_at("eos")?);
        let flag = |name: &str, default: bool| {
            Ok::<_, GgufError>(metadata.boolean(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default))
        };
        // BERT's have names of their own.
        let before = bos.or(token_at("cls")?);
        let after = if model == "bert" { token_at("seperator")?.or(eos) } else { eos };
        let adds_bos = flag("add_bos_token", parts.add_bos)?;
        let adds_eos = flag(if model == "bert" { "add_sep_token" } else { "add_eos_token" }, parts.add_eos)?;
        let (before, after) = (before.filter(|_| adds_bos), after.filter(|_| adds_eos));
        let post_processor = template(before, after, before.filter(|_| model != "bert"));
        // The file does not say it: Phi 3's tokens take the spaces that follow them.
        let strips_spaces = model == "llama" && metadata.text("general.architecture")? == Some("phi3");
        let strips = |token: &str| strips_spaces && !KEEP_SPACES.contains(&token);
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": vocabulary.added(&parts.added, strips),
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": post_processor,
            "decoder": parts.decoder,
            "model": parts.model,
        });
        let owned = |token: Option<(u32, &str)>| token.map(|(_, text)| text.to_owned());
        Ok(Self {
            json,
            size: vocabulary.tokens.len() as u64,
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
        ends.extend(vocabulary.token_at(metadata, key)?.map(|(id, _)| id));
    }
    for token in END_TOKENS {
        ends.extend(vocabulary.ids.get(token).filter(|&&id| vocabulary.types[id as usize] == CONTROL));
    }
    Ok(ends.into_iter().collect())
}

/// What a text gets around it; `between` is what stands before the second of two texts.
fn template(before: Option<(u32, &str)>, after: Option<(u32, &str)>, between: Option<(u32, &str)>) -> Value {
    if before.is_none() && after.is_none() {
        return Value::Null;
    }
    let sequence = |name: &str, type_id: u8, before: Option<(u32, &str)>| {
        let special = |(_, text): (u32, &str)| json!({ "SpecialToken": { "id": text, "type_id": type_id } });
        let text = json!({ "Sequence": { "id": name, "type_id": type_id } });
        before.map(special).into_iter().chain([text]).chain(after.map(special)).collect::<Vec<_>>()
    };
    let describe =
        |(id, text): (u32, &str)| (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    let specials: Map<String, Value> = before.into_iter().chain(after).map(describe).collect();
    let pair = [sequence("A", 0, before), sequence("B", 1, between)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0, before),
        "pair": pair,
        "special_tokens": specials,
    })
}
