//! `POST /v1/completions`.

use protocol::message::FinishReason;
use serde::Serialize;

use super::{
    error::ApiError,
    fields::{self, Checked},
    generation::{Shape, reason_word},
};

/// A text's continuation.
pub(super) struct Completion;

#[derive(Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

impl Shape for Completion {
    const ID_PREFIX: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";

    fn read(body: &[u8]) -> Result<Checked, ApiError> {
        fields::completion::read(body)
    }

    fn opening() -> Option<impl Serialize> {
        None::<()>
    }

    fn piece(text: &str, reason: Option<FinishReason>) -> impl Serialize {
        Choice { text, index: 0, logprobs: None, finish_reason: reason.map(reason_word) }
    }

    fn whole(text: &str, reason: FinishReason) -> impl Serialize {
        Self::piece(text, Some(reason))
    }
}
