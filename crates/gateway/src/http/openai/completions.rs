//! `POST /v1/completions`.

use serde::Serialize;

use super::{
    endpoint::{Endpoint, Part, finish_reason_str},
    logprobs::CompletionLogprobs,
    request::{self, Context},
};
use crate::{
    http::{dialect::Asked, error::ApiError},
    serve::FinishReason,
};

/// A text's continuation.
pub(super) struct Completion;

#[derive(Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<CompletionLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

impl<'a> Choice<'a> {
    fn new(Part { index, text, logprobs, offset }: Part<'a>, reason: Option<FinishReason>) -> Self {
        let logprobs = logprobs.map(|tokens| CompletionLogprobs::of(tokens, offset));
        Self { text, index, logprobs, finish_reason: reason.map(finish_reason_str) }
    }
}

impl Endpoint for Completion {
    const ID_PREFIX: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";

    fn read(body: &[u8]) -> Result<Asked<Context>, ApiError> {
        request::completion(body)
    }

    fn first(_index: u32) -> Option<impl Serialize> {
        None::<()>
    }

    fn delta(part: Part<'_>) -> impl Serialize {
        Choice::new(part, None)
    }

    fn last(index: u32, reason: FinishReason) -> impl Serialize {
        Choice::new(Part { index, text: "", logprobs: None, offset: 0 }, Some(reason))
    }

    fn full(part: Part<'_>, reason: FinishReason) -> impl Serialize {
        Choice::new(part, Some(reason))
    }
}
