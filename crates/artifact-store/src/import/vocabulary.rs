//! `tokenizer.json`, as far as import looks into it: which text has which id.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::error::Category;

use super::post_processor::PostProcessor;

/// A tokenizer of the tokenizers library.
#[derive(Deserialize)]
pub(super) struct Vocabulary {
    #[serde(default)]
    added_tokens: Option<Vec<AddedToken>>,
    model: Option<Model>,
    #[serde(default)]
    post_processor: Option<PostProcessor>,
}

/// A token that is matched before anything is split.
#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Tokens,
}

/// Ids by text: in the file an object of them, or a list of `[text, score]` in the order of the ids.
#[derive(Default)]
struct Tokens(HashMap<String, u64>);

impl Vocabulary {
    /// Reads the file; the error says what it is instead.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let reason = |error: serde_json::Error| match error.classify() {
            Category::Data => format!("it is not of the tokenizers library: {error}"),
            _ => format!("it is not JSON: {error}"),
        };
        // What is skipped below is not looked at, and those who load the tokenizer look at all of it.
        serde_json::from_slice::<Whole>(bytes).map_err(reason)?;
        let read: Self = serde_json::from_slice(bytes).map_err(reason)?;
        match read.model {
            Some(_) => Ok(read),
            None => Err("it has no \"model\": it is not of the tokenizers library".to_owned()),
        }
    }

    /// The id of a token with this text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        let added = self.added().find(|token| token.content == text).map(|token| token.id);
        let known = || self.model.as_ref()?.vocab.0.get(text).copied();
        added.or_else(known)?.try_into().ok()
    }

    /// Whether a token with this text is matched before anything is split.
    pub(super) fn has_added(&self, text: &str) -> bool {
        self.added().any(|token| token.content == text)
    }

    /// What writes tokens around a text.
    pub(super) fn post_processor(&self) -> Option<&PostProcessor> {
        self.post_processor.as_ref()
    }

    /// The tokens whose ids are not below `rows`, by id.
    pub(super) fn beyond(&self, rows: u64) -> Vec<(u64, &str)> {
        let added = self.added().map(|token| (token.id, token.content.as_str()));
        let known = self.model.iter().flat_map(|model| &model.vocab.0).map(|(text, id)| (*id, text.as_str()));
        let mut beyond: Vec<_> = added.chain(known).filter(|(id, _)| *id >= rows).collect();
        beyond.sort_unstable();
        beyond.dedup();
        beyond
    }

    /// The id that the tokenizers library gives to the next token that is added.
    pub(super) fn next_id(&self) -> u64 {
        let known = self.model.as_ref().map_or(0, |model| model.vocab.0.len() as u64);
        self.added().map(|token| token.id.saturating_add(1)).fold(known, u64::max)
    }

    fn added(&self) -> impl Iterator<Item = &AddedToken> {
        self.added_tokens.iter().flatten()
    }
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokensVisitor)
    }
}

struct TokensVisitor;

impl<'de> Visitor<'de> for TokensVisitor {
    type Value = Tokens;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tokens and ids, or a list of tokens and scores")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
        let mut tokens = HashMap::new();
        while let Some((text, id)) = map.next_entry()? {
            tokens.insert(text, id);
        }
        Ok(Tokens(tokens))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tokens, A::Error> {
        let mut tokens = HashMap::new();
        let mut id = 0;
        while let Some((text, _)) = list.next_element::<(String, IgnoredAny)>()? {
            tokens.insert(text, id);
            id += 1;
        }
        Ok(Tokens(tokens))
    }

    /// `null`: the same as none.
    fn visit_unit<E>(self) -> Result<Tokens, E> {
        Ok(Tokens::default())
    }
}

/// Any JSON. Reading it reads every number and string, and keeps none.
struct Whole;

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor)
    }
}

struct WholeVisitor;

impl<'de> Visitor<'de> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_str<E>(self, _: &str) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Whole, A::Error> {
        while list.next_element::<Whole>()?.is_some() {}
        Ok(Whole)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Whole, A::Error> {
        while map.next_entry::<Whole, Whole>()?.is_some() {}
        Ok(Whole)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn vocabulary(vocab: &serde_json::Value) -> Vocabulary {
        let added = json!([{ "id": 9, "content": "<pad>", "special": true }]);
        let file = json!({ "model": { "type": "x", "vocab": vocab, "merges": [] }, "added_tokens": added });
        Vocabulary::read(file.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn ids_are_found_in_every_form_of_vocabulary() {
        for vocab in [json!({ "a": 0, "b": 1 }), json!([["a", -1.5], ["b", 0]])] {
            let vocabulary = vocabulary(&vocab);
            assert_eq!(
                ["a", "b", "<pad>", "c"].map(|text| vocabulary.id(text)),
                [Some(0), Some(1), Some(9), None]
            );
            assert_eq!(vocabulary.beyond(10), []);
            assert_eq!(vocabulary.next_id(), 10);
            assert_eq!(vocabulary.beyond(1), [(1, "b"), (9, "<pad>")]);
        }
    }

    #[test]
    fn other_files_are_refused() {
        let reason = |text: &str| Vocabulary::read(text.as_bytes()).err().unwrap();
        assert!(reason("{").contains("not JSON"));
        assert!(reason("{}").contains("no \"model\""));
        for other in
            ["[]", r#"{"model":"bpe"}"#, r#"{"model":{"vocab":7}}"#, r#"{"model":{"vocab":{"a":-1}}}"#]
        {
            assert!(reason(other).contains("tokenizers library"), "{other}");
        }
        // In a part that is not looked into.
        let deep = "[".repeat(200) + &"]".repeat(200);
        for other in ["1e999", r#""\ud800""#, "NaN", &deep] {
            assert!(reason(&format!(r#"{{"model":{{}},"x":{other}}}"#)).contains("not JSON"), "{other}");
        }
    }
}
