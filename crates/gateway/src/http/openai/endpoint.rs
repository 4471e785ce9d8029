//! In what chat and text completions differ.

use serde::Serialize;

use super::request::Context;
use crate::{
    http::{dialect::Asked, error::ApiError},
    serve::{Call, FinishReason, OutputPart, TokenLogprobs},
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

    /// The choice of a chunk with a part that the model has marked. `None` where such parts are not told apart: of what
    /// continues a text, none is marked.
    fn marked(index: u32, part: &OutputPart, ids: CallIds) -> Option<impl Serialize>;

    /// The choice of the last chunk.
    fn last(index: u32, end: End) -> impl Serialize;

    /// The choice of a full answer, with what the model has marked.
    fn full<'a>(part: Part<'a>, marked: Marked<'a>, end: End) -> impl Serialize;
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

/// What a choice has beside its text.
#[derive(Clone, Copy)]
pub(super) struct Marked<'a> {
    pub(super) reasoning: &'a str,
    pub(super) calls: &'a [Call],
    pub(super) ids: CallIds,
}

/// By what clients refer to the calls of one choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallIds(pub(super) u64);

impl CallIds {
    /// Of the call with this number.
    pub(super) fn id(self, index: u32) -> String {
        format!("call_{:016x}{index:04x}", self.0)
    }
}

/// How a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) reason: FinishReason,
    /// The model has called tools, and waits for what comes of that.
    pub(super) calls: bool,
}

impl End {
    /// OpenAI's name for it.
    pub(super) fn name(self) -> &'static str {
        match self.reason {
            FinishReason::Stop if self.calls => "tool_calls",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}
