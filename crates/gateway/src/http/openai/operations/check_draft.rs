//! `POST /v1/check_draft`: whether another stored model can draft tokens for this one. Our own addition.

use serde::Serialize;

use super::{Asked, Endpoint, fields::CheckDraftFields, json, required_model};
use crate::{
    http::{
        error::ApiError,
        json::{Text, field, parse},
    },
    serve::operation::{Answer, Answered, OperationKind},
};

pub(super) struct CheckDraft;

/// The models' names, as the client wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    model: String,
    draft_model: String,
}

#[derive(Serialize)]
struct Checked<'a> {
    model: &'a str,
    draft_model: &'a str,
    compatible: bool,
    reason: Option<&'a str>,
    vocab_size: u32,
    draft_vocab_size: u32,
}

impl Endpoint for CheckDraft {
    type Form = Names;

    fn read(body: &[u8]) -> Result<Asked<Names>, ApiError> {
        let fields: CheckDraftFields = parse(body)?;
        fields.foreign.check()?;
        let model = required_model(fields.model)?;
        let draft_model = match fields.draft_model {
            Some(Text(draft)) if !draft.is_empty() => draft,
            _ => return Err(field("draft_model", "is required: name a model of the artifact store")),
        };
        let kind = OperationKind::CheckDraft { draft: draft_model.clone() };
        Ok(Asked { model: Some(model.clone()), kind, form: Names { model, draft_model } })
    }

    fn write(names: Names, answered: Answered) -> Result<Vec<u8>, ApiError> {
        let Answer::DraftCheck { compatible, reason, vocab_size, draft_vocab_size } = answered.answer else {
            return Err(ApiError::Internal);
        };
        let Names { model, draft_model } = &names;
        let reason = reason.as_deref();
        json(&Checked { model, draft_model, compatible, reason, vocab_size, draft_vocab_size })
    }
}
