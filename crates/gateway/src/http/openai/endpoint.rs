//! In what chat and text completions differ.

use serde::Serialize;

use super::request::Context;
use crate::{
    http::{dialect::Asked, error::ApiError},
    serve::{FinishReason, TokenLogprobs},
};

/// One of the two kinds of completion.
pub(super) trait Endpoint: Send + Sync + Unpin + 'static {
    /// Comes before the random part of an id.
    const ID_PREFIX: &'static str;
    /// `object` of a full answer.
    const OBJECT: &'static str;
    /// `object` of a chunk.
    const CHUNK_OBJECT: &'static str;

    /// What a body asks for.
    fn read(body: &[u8]) -> Result<Asked<Context>, ApiError>;

    /// The choice of the first chunk, if there is one before any text.
    fn first(index: u32) -> Option<impl Serialize>;

    /// The choice of a chunk with output.
    fn delta(part: Part<'_>) -> impl Serialize;

    /// The choice of the last chunk.
    fn last(index: u32, reason: FinishReason) -> impl Serialize;

    /// The choice of a full answer.
    fn full(part: Part<'_>, reason: FinishReason) -> impl Serialize;
}

/// Output of one choice, all of it or a part.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// Which choice it is of.
    pub(super) index: u32,
    pub(super) text: &'a str,
    /// How likely its tokens were; `None` if that is not to be shown.
    pub(super) logprobs: Option<&'a [TokenLogprobs]>,
    /// Characters of the choice's text before its first token.
    pub(super) offset: usize,
}

/// OpenAI's name for it.
pub(super) fn finish_reason_str(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}
