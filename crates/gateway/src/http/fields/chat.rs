//! Fields of `/v1/chat/completions`.

use protocol::message::{ChatMessage, Prompt};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Checked, CommonFields,
    check::{field, is_filled, refuse, tokens, unsupported},
};
use crate::http::error::ApiError;

/// As typed.
#[derive(Debug, Deserialize)]
pub struct ChatFields {
    messages: Vec<Message>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    top_logprobs: Value,
    #[serde(default)]
    tools: Value,
    #[serde(default)]
    tool_choice: Value,
    #[serde(default)]
    functions: Value,
    #[serde(default)]
    function_call: Value,
    #[serde(default)]
    modalities: Value,
    #[serde(default)]
    audio: Value,
    #[serde(flatten)]
    common: CommonFieldsOf,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_calls: Value,
    #[serde(default)]
    function_call: Value,
}
