//! `POST /v1/completions`.

use serde::Serialize;

use super::{
    endpoint::{CallIds, End, Endpoint, Marked, Part},
    logprobs::CompletionLogprobs,
    request::{self, Context},
};
use crate::{
    http::{dialect::Asked, error::ApiError},
    serve::OutputPart,
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
    fn new(Part { index, text, logprobs, offset }: Part<'a>, end: Option<End>) -> Self {
        let logprobs = logprobs.map(|tokens| CompletionLogprobs::of(tokens, offset));
        Self { text, index, logprobs, finish_reason: end.map(End::name) }
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

    fn marked(_index: u32, _part: &OutputPart, _ids: CallIds) -> Option<impl Serialize> {
        None::<()>
    }

    fn last(index: u32, end: End) -> impl Serialize {
        Choice::new(Part { index, text: "", logprobs: None, offset: 0 }, Some(end))
    }

    fn full<'a>(part: Part<'a>, _marked: Marked<'a>, end: End) -> impl Serialize {
        Choice::new(part, Some(end))
    }
}
