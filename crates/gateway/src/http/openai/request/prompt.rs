//! `prompt` of `/v1/completions`: text, token ids, or a list with one of either.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use crate::{
    http::{
        error::ApiError,
        json::{Whole, field, unsupported},
    },
    serve::Prompt,
};

/// As typed.
#[derive(Debug)]
pub(in crate::http::openai) enum TypedPrompt {
    One(Prompt),
    Several,
    Empty,
    Wrong,
}

/// One item of a list.
pub(in crate::http::openai) enum PromptItem {
    Token(u32),
    Prompt(Prompt),
    Wrong,
}

/// The prompt of a text completion.
pub(super) fn text_prompt(prompt: Option<TypedPrompt>) -> Result<Prompt, ApiError> {
    match prompt {
        Some(TypedPrompt::One(prompt)) => Ok(prompt),
        Some(TypedPrompt::Several) => Err(unsupported("prompt", "a list of several prompts")),
        Some(TypedPrompt::Empty) => Err(field("prompt", "must not be an empty list")),
        Some(TypedPrompt::Wrong) => Err(field("prompt", "must be a string or a list of token ids")),
        None => Err(field("prompt", "is required")),
    }
}

impl<'de> Deserialize<'de> for TypedPrompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Prompts)
    }
}

struct Prompts;

impl<'de> Visitor<'de> for Prompts {
    type Value = TypedPrompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of token ids")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TypedPrompt, E> {
        Ok(TypedPrompt::One(Prompt::Text(text.to_owned())))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<TypedPrompt, E> {
        Ok(TypedPrompt::One(Prompt::Text(text)))
    }

    /// Goes on to the list's end even if it is wrong, so that the rest of the body can be read.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TypedPrompt, A::Error> {
        let (mut tokens, mut prompts, mut first, mut wrong) = (Vec::new(), 0, None, false);
        while let Some(item) = list.next_element()? {
            match item {
                PromptItem::Token(id) => tokens.push(id),
                PromptItem::Prompt(prompt) => {
                    prompts += 1;
                    first.get_or_insert(prompt);
                }
                PromptItem::Wrong => wrong = true,
            }
        }
        Ok(match (first, prompts) {
            _ if wrong || (prompts > 0 && !tokens.is_empty()) => TypedPrompt::Wrong,
            (Some(Prompt::Tokens(tokens)), 1) if tokens.is_empty() => TypedPrompt::Empty,
            (Some(prompt), 1) => TypedPrompt::One(prompt),
            (_, 2..) => TypedPrompt::Several,
            _ if tokens.is_empty() => TypedPrompt::Empty,
            _ => TypedPrompt::One(Prompt::Tokens(tokens)),
        })
    }
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Items)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = PromptItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id")
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<PromptItem, E> {
        Ok(u32::try_from(id).map_or(PromptItem::Wrong, PromptItem::Token))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<PromptItem, E> {
        Ok(PromptItem::Wrong)
    }

    fn visit_f64<E: de::Error>(self, id: f64) -> Result<PromptItem, E> {
        let whole = id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&id);
        Ok(if whole { PromptItem::Token(id as u32) } else { PromptItem::Wrong })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PromptItem, E> {
        Ok(PromptItem::Prompt(Prompt::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PromptItem, A::Error> {
        let mut tokens = Vec::new();
        while let Some(Whole(id)) = list.next_element()? {
            match u32::try_from(id) {
                Ok(id) => tokens.push(id),
                Err(_) => return Err(de::Error::custom("must be a token id")),
            }
        }
        Ok(PromptItem::Prompt(Prompt::Tokens(tokens)))
    }
}
