//! `POST /v1/completions`.

use serde::Serialize;

use super::{
    endpoint::{Endpoint, finish_reason_str},
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
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

impl<'a> Choice<'a> {
    fn new(text: &'a str, reason: Option<FinishReason>) -> Self {
        Self { text, index: 0, logprobs: None, finish_reason: reason.map(finish_reason_str) }
    }
}

impl Endpoint for Completion {
    const ID_PREFIX: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";

    fn read(body: &[u8]) -> Result<Asked<Context>, ApiError> {
        request::completion(body)
    }

    fn first() -> Option<impl Serialize> {
        None::<()>
    }

    fn delta(text: &str) -> impl Serialize {
        Choice::new(text, None)
    }

    fn last(reason: FinishReason) -> impl Serialize {
        Choice::new("", Some(reason))
    }

    fn full(text: &str, reason: FinishReason) -> impl Serialize {
        Choice::new(text, Some(reason))
    }
}
