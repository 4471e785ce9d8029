//! In what chat and text completions differ.

use serde::Serialize;

use super::request::Context;
use crate::{
    http::{dialect::Asked, error::ApiError},
    serve::FinishReason,
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
    fn first() -> Option<impl Serialize>;

    /// The choice of a chunk with text.
    fn delta(text: &str) -> impl Serialize;

    /// The choice of the last chunk.
    fn last(reason: FinishReason) -> impl Serialize;

    /// The choice of a full answer.
    fn full(text: &str, reason: FinishReason) -> impl Serialize;
}

/// OpenAI's name for it.
pub(super) fn finish_reason_str(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}
