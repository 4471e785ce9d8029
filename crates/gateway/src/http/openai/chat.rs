//! `POST /v1/chat/completions`.

use serde::Serialize;

use super::{
    endpoint::{Endpoint, Part, finish_reason_str},
    logprobs::ChatLogprobs,
    request::{self, Context},
};
use crate::{
    http::{dialect::Asked, error::ApiError},
    serve::FinishReason,
};

/// A chat's answer.
pub(super) struct Chat;

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

impl Endpoint for Chat {
    const ID_PREFIX: &'static str = "chatcmpl-";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK_OBJECT: &'static str = "chat.completion.chunk";

    fn read(body: &[u8]) -> Result<Asked<Context>, ApiError> {
        request::chat(body)
    }

    fn first(index: u32) -> Option<impl Serialize> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        Some(ChunkChoice { index, delta, logprobs: None, finish_reason: None })
    }

    fn delta(Part { index, text, logprobs, .. }: Part<'_>) -> impl Serialize {
        let delta = Delta { role: None, content: Some(text) };
        ChunkChoice { index, delta, logprobs: logprobs.map(ChatLogprobs::of), finish_reason: None }
    }

    fn last(index: u32, reason: FinishReason) -> impl Serialize {
        let delta = Delta { role: None, content: None };
        ChunkChoice { index, delta, logprobs: None, finish_reason: Some(finish_reason_str(reason)) }
    }

    fn full(Part { index, text, logprobs, .. }: Part<'_>, reason: FinishReason) -> impl Serialize {
        let message = Message { role: "assistant", content: text, refusal: None };
        let logprobs = logprobs.map(ChatLogprobs::of);
        Choice { index, message, logprobs, finish_reason: finish_reason_str(reason) }
    }
}
