//! The tokens of a GGUF file, and what their kind decides.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    GgufError,
    metadata::{Metadata, required},
};

/// `tokenizer.ggml.token_type` of the unknown token.
pub(super) const UNKNOWN: u64 = 2;
/// Of tokens that are not text: `<|im_end|>`.
pub(super) const CONTROL: u64 = 3;
/// Of tokens that are matched before anything is split.
pub(super) const USER_DEFINED: u64 = 4;

/// The tokens of a file.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<&'a str>,
    /// `tokenizer.ggml.token_type` of each.
    pub(super) types: Vec<u64>,
    /// Each token's id.
    pub(super) ids: HashMap<&'a str, u32>,
}

/// What a kind of vocabulary decides in `tokenizer.json`.
pub(super) struct Parts {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) decoder: Value,
    pub(super) model: Value,
    /// Types of the tokens that are matched before anything is split.
    pub(super) added: Vec<u64>,
    /// Whether a text begins with the bos token if the metadata does not say.
    pub(super) add_bos: bool,
    /// Whether it ends with the eos token, likewise.
    pub(super) add_eos: bool,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(metadata: &'a Metadata) -> Result<Self, GgufError> {
        let tokens = required(metadata.texts("tokenizer.ggml.tokens")?, "tokenizer.ggml.tokens")?;
        let types = metadata.unsigneds("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1; tokens.len()]);
        if types.len() != tokens.len() {
            return Err(GgufError::Damaged(format!("{} tokens and {} types", tokens.len(), types.len())));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (token, id) in tokens.iter().zip(0..) {
            // A token that occurs twice could not be told apart.
            if ids.insert(*token, id).is_some() {
                return Err(GgufError::Damaged(format!("the token `{token}` occurs twice")));
            }
        }
        Ok(Self { tokens, types, ids })
    }

    /// Every token with its id.
    pub(super) fn json(&self) -> Map<String, Value> {
        self.tokens.iter().zip(0_u32..).map(|(token, id)| ((*token).to_owned(), id.into())).collect()
    }

    /// The token that a metadata key names by id.
    pub(super) fn token_at(
        &self,
        metadata: &Metadata,
        key: &str,
    ) -> Result<Option<(u32, &'a str)>, GgufError> {
        let Some(id) = metadata.unsigned(key)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|index| self.tokens.get(index));
        match (u32::try_from(id), token) {
            (Ok(id), Some(text)) => Ok(Some((id, text))),
            _ => Err(GgufError::Damaged(format!("`{key}` is {id}, which is not a token"))),
        }
    }

    /// The tokens of these types, as `added_tokens`; `strips` says which of them take the spaces that follow.
    pub(super) fn added(&self, kinds: &[u64], strips: impl Fn(&str) -> bool) -> Vec<Value> {
        let all = self.tokens.iter().zip(&self.types).zip(0_u32..);
        let added = all.filter(|((_, kind), _)| kinds.contains(*kind));
        let describe = |((content, kind), id): ((&&str, &u64), u32)| {
            json!({
                "id": id,
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": strips(content),
                "normalized": false,
                "special": *kind != USER_DEFINED,
            })
        };
        added.map(describe).collect()
    }
}
