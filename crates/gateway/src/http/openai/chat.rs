//! `POST /v1/chat/completions`.

use serde::Serialize;

use super::{
    endpoint::{Endpoint, finish_reason_str},
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
    logprobs: Option<()>,
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
    logprobs: Option<()>,
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

    fn first() -> Option<impl Serialize> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        Some(ChunkChoice { index: 0, delta, logprobs: None, finish_reason: None })
    }

    fn delta(text: &str) -> impl Serialize {
        let delta = Delta { role: None, content: Some(text) };
        ChunkChoice { index: 0, delta, logprobs: None, finish_reason: None }
    }

    fn last(reason: FinishReason) -> impl Serialize {
        let delta = Delta { role: None, content: None };
        ChunkChoice { index: 0, delta, logprobs: None, finish_reason: Some(finish_reason_str(reason)) }
    }

    fn full(text: &str, reason: FinishReason) -> impl Serialize {
        let message = Message { role: "assistant", content: text, refusal: None };
        Choice { index: 0, message, logprobs: None, finish_reason: finish_reason_str(reason) }
    }
}
