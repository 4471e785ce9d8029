//! `POST /v1/chat/completions`.

use serde::Serialize;

use super::{
    endpoint::{CallIds, End, Endpoint, Marked, Part},
    logprobs::ChatLogprobs,
    request::{self, Context},
};
use crate::{
    http::{dialect::Asked, error::ApiError},
    serve::{Call, OutputPart},
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

/// What a chunk adds to a message.
#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

/// What a chunk adds to a call. The first of its chunks has the id and the name.
#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
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
    /// Null if the model called tools and said nothing.
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> ChunkChoice<'a> {
    fn of(index: u32, delta: Delta<'a>) -> Self {
        Self { index, delta, logprobs: None, finish_reason: None }
    }
}

impl<'a> Delta<'a> {
    fn of(part: &'a OutputPart, ids: CallIds) -> Self {
        match part {
            OutputPart::Text(text) => Self { content: Some(text), ..Self::default() },
            OutputPart::Reasoning(text) => Self { reasoning_content: Some(text), ..Self::default() },
            OutputPart::CallStart { index, name } => Self::of_call(CallDelta {
                index: *index,
                id: Some(ids.id(*index)),
                kind: Some("function"),
                function: FunctionDelta { name: Some(name), arguments: "" },
            }),
            OutputPart::CallArguments { index, json } => Self::of_call(CallDelta {
                index: *index,
                id: None,
                kind: None,
                function: FunctionDelta { name: None, arguments: json },
            }),
        }
    }

    fn of_call(call: CallDelta<'a>) -> Self {
        Self { tool_calls: Some([call]), ..Self::default() }
    }
}

impl<'a> ToolCall<'a> {
    fn of((index, Call { name, arguments }): (u32, &'a Call), ids: CallIds) -> Self {
        Self { id: ids.id(index), kind: "function", function: Function { name, arguments } }
    }
}

impl Endpoint for Chat {
    const ID_PREFIX: &'static str = "chatcmpl-";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK_OBJECT: &'static str = "chat.completion.chunk";

    fn read(body: &[u8]) -> Result<Asked<Context>, ApiError> {
        request::chat(body)
    }

    fn first(index: u32) -> Option<impl Serialize> {
        let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
        Some(ChunkChoice::of(index, delta))
    }

    fn delta(Part { index, text, logprobs, .. }: Part<'_>) -> impl Serialize {
        let delta = Delta { content: Some(text), ..Delta::default() };
        ChunkChoice { logprobs: logprobs.map(ChatLogprobs::of), ..ChunkChoice::of(index, delta) }
    }

    fn marked(index: u32, part: &OutputPart, ids: CallIds) -> Option<impl Serialize> {
        Some(ChunkChoice::of(index, Delta::of(part, ids)))
    }

    fn last(index: u32, end: End) -> impl Serialize {
        ChunkChoice { finish_reason: Some(end.name()), ..ChunkChoice::of(index, Delta::default()) }
    }

    fn full<'a>(
        Part { index, text, logprobs, .. }: Part<'a>,
        marked: Marked<'a>,
        end: End,
    ) -> impl Serialize {
        let Marked { reasoning, calls, ids } = marked;
        let message = Message {
            role: "assistant",
            content: Some(text).filter(|text| !text.is_empty() || calls.is_empty()),
            reasoning_content: reasoning,
            refusal: None,
            tool_calls: (0..).zip(calls).map(|call| ToolCall::of(call, ids)).collect(),
        };
        let logprobs = logprobs.map(ChatLogprobs::of);
        Choice { index, message, logprobs, finish_reason: end.name() }
    }
}
