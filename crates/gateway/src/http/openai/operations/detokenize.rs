//! `POST /v1/detokenize` and `/detokenize`: with a model, as vLLM has it, and without, as llama.cpp has it.

use serde::Serialize;

use super::{super::request::TypedPrompt, Asked, Endpoint, fields::DetokenizeFields, json, optional_model};
use crate::{
    http::{
        error::ApiError,
        json::{Flag, field, parse},
    },
    serve::{
        Prompt,
        operation::{Answer, Answered, OperationKind},
    },
};

pub(super) struct Detokenize;

/// The name of the text in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Prompt,
    Content,
}

/// In either form.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Text<'a> {
    Prompt(&'a str),
    Content(&'a str),
}

impl Endpoint for Detokenize {
    type Form = Form;

    fn read(body: &[u8]) -> Result<Asked<Form>, ApiError> {
        let fields: DetokenizeFields = parse(body)?;
        fields.foreign.check()?;
        let tokens = match fields.tokens {
            Some(TypedPrompt::One(Prompt::Tokens(tokens))) => tokens,
            Some(TypedPrompt::Empty) => Vec::new(),
            Some(_) => return Err(field("tokens", "must be a list of token ids")),
            None => return Err(field("tokens", "is required")),
        };
        let model = optional_model(fields.model);
        let form = if model.is_some() { Form::Prompt } else { Form::Content };
        let skip_special_tokens = fields.skip_special_tokens.is_some_and(|Flag(skips)| skips);
        Ok(Asked { model, kind: OperationKind::Detokenize { tokens, skip_special_tokens }, form })
    }

    fn write(form: Form, answered: Answered) -> Result<Vec<u8>, ApiError> {
        let Answer::Text(text) = &answered.answer else { return Err(ApiError::Internal) };
        json(&match form {
            Form::Prompt => Text::Prompt(text),
            Form::Content => Text::Content(text),
        })
    }
}
