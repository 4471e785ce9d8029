//! `POST /apply-template`, as llama.cpp has it: the text of a chat's prompt.

use serde::Serialize;

use super::{
    super::request::chat_prompt, Asked, Endpoint, fields::ApplyTemplateFields, json, optional_model,
};
use crate::{
    http::{
        error::ApiError,
        json::{Flag, parse},
    },
    serve::{
        Prompt,
        operation::{Answer, Answered, OperationKind},
    },
};

pub(super) struct ApplyTemplate;

#[derive(Serialize)]
struct Rendered<'a> {
    prompt: &'a str,
}

impl Endpoint for ApplyTemplate {
    type Form = ();

    fn read(body: &[u8]) -> Result<Asked<()>, ApiError> {
        let fields: ApplyTemplateFields = parse(body)?;
        fields.foreign.check()?;
        let Prompt::Chat(messages) = chat_prompt(fields.messages)? else { return Err(ApiError::Internal) };
        let add_generation_prompt = fields.add_generation_prompt.is_none_or(|Flag(adds)| adds);
        let kind = OperationKind::Render { messages, add_generation_prompt };
        Ok(Asked { model: optional_model(fields.model), kind, form: () })
    }

    fn write((): (), answered: Answered) -> Result<Vec<u8>, ApiError> {
        let Answer::Text(prompt) = &answered.answer else { return Err(ApiError::Internal) };
        json(&Rendered { prompt })
    }
}
