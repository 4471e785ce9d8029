//! `input` of `/v1/embeddings`: a text, token ids, or a list of either.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use super::super::request::PromptItem;
use crate::{
    http::{error::ApiError, json::field},
    serve::Prompt,
};

/// Most inputs of a request: as many as OpenAI takes.
const MAX_INPUTS: usize = 2048;

/// As typed.
#[derive(Debug)]
pub(super) enum TypedInputs {
    Prompts(Vec<Prompt>),
    TooMany(usize),
    Empty,
    Wrong,
}

impl TypedInputs {
    /// The inputs, if they are some.
    pub(super) fn check(self) -> Result<Vec<Prompt>, ApiError> {
        match self {
            Self::Prompts(prompts) => Ok(prompts),
            Self::TooMany(count) => {
                Err(field("input", format!("has {count} inputs, but at most {MAX_INPUTS} are allowed")))
            }
            Self::Empty => Err(field("input", "must not be an empty list")),
            Self::Wrong => Err(field("input", "must be a string, a list of token ids, or a list of either")),
        }
    }
}

impl<'de> Deserialize<'de> for TypedInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Inputs)
    }
}

struct Inputs;

impl<'de> Visitor<'de> for Inputs {
    type Value = TypedInputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of token ids, or a list of either")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TypedInputs, E> {
        Ok(TypedInputs::Prompts(vec![Prompt::Text(text.to_owned())]))
    }

    /// Goes on to the list's end even if it is wrong, so that the rest of the body can be read. Of too many inputs nothing is
    /// kept.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TypedInputs, A::Error> {
        let (mut tokens, mut prompts, mut count, mut wrong) = (Vec::new(), Vec::new(), 0, false);
        while let Some(item) = list.next_element()? {
            match item {
                PromptItem::Token(id) => tokens.push(id),
                PromptItem::Prompt(prompt) => {
                    count += 1;
                    if count <= MAX_INPUTS {
                        prompts.push(prompt);
                    } else {
                        prompts.clear();
                    }
                }
                PromptItem::Wrong => wrong = true,
            }
        }
        Ok(match (count, tokens.is_empty()) {
            _ if wrong => TypedInputs::Wrong,
            (0, true) => TypedInputs::Empty,
            (0, false) => TypedInputs::Prompts(vec![Prompt::Tokens(tokens)]),
            (_, false) => TypedInputs::Wrong,
            (count, true) if count > MAX_INPUTS => TypedInputs::TooMany(count),
            (_, true) => TypedInputs::Prompts(prompts),
        })
    }
}
