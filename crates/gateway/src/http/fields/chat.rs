//! Fields of `/v1/chat/completions`.

use protocol::message::{ChatMessage, Prompt};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Checked, CommonFields,
    check::{field, is_filled, refuse, tokens, unsupported},
    object::Object,
    parse,
};
use crate::http::error::ApiError;

/// As typed, beside the [`CommonFields`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatFields {
    messages: Option<Vec<Object<Message>>>,
    max_completion_tokens: Option<u64>,
    top_logprobs: Value,
    tools: Value,
    tool_choice: Value,
    functions: Value,
    function_call: Value,
    modalities: Value,
    audio: Value,
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

/// A checked chat request from a body.
pub(crate) fn read(body: &[u8]) -> Result<Checked, ApiError> {
    let common: CommonFields = parse(body)?;
    let chat: ChatFields = parse(body)?;
    chat.refuse_unsupported()?;
    let max_tokens = chat.max_tokens(&common)?;
    let messages = chat.messages.ok_or_else(|| field("messages", "is required"))?;
    if messages.is_empty() {
        return Err(field("messages", "must not be empty"));
    }
    let messages = messages.into_iter().enumerate().map(|(i, Object(message))| message.check(i));
    common.check(Prompt::Chat(messages.collect::<Result<_, _>>()?), max_tokens)
}

impl ChatFields {
    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        refuse("top_logprobs", &self.top_logprobs, |v| *v != 0, "returning log probabilities")?;
        refuse("tools", &self.tools, is_filled, "calling tools")?;
        refuse("functions", &self.functions, is_filled, "calling functions")?;
        // Without tools, these two choose what happens anyway.
        let forces = |v: &Value| *v != "none" && *v != "auto";
        refuse("tool_choice", &self.tool_choice, forces, "calling tools")?;
        refuse("function_call", &self.function_call, forces, "calling functions")?;
        refuse(
            "modalities",
            &self.modalities,
            |v| *v != serde_json::json!(["text"]),
            "output other than text",
        )?;
        refuse("audio", &self.audio, |_| true, "audio output")
    }

    /// Both names mean the same here, as there is no hidden reasoning to count.
    fn max_tokens(&self, common: &CommonFields) -> Result<Option<u32>, ApiError> {
        let new = tokens("max_completion_tokens", self.max_completion_tokens)?;
        let old = tokens("max_tokens", common.max_tokens)?;
        match (new, old) {
            (Some(new), Some(old)) if new != old => Err(field(
                "max_tokens",
                format!("is {old}, but `max_completion_tokens` is {new}: send one of them"),
            )),
            _ => Ok(new.or(old)),
        }
    }
}

impl Message {
    fn check(self, index: usize) -> Result<ChatMessage, ApiError> {
        let path = |name: &str| format!("messages[{index}].{name}");
        refuse(&path("tool_calls"), &self.tool_calls, is_filled, "calling tools")?;
        refuse(&path("function_call"), &self.function_call, is_filled, "calling functions")?;
        let role = match self.role.as_str() {
            "system" | "user" | "assistant" => self.role,
            // OpenAI's newer name for it; templates of open models know the older.
            "developer" => "system".into(),
            "tool" | "function" => return Err(unsupported(&path("role"), "calling tools")),
            role => {
                let problem = format!("is `{role}`, but must be system, developer, user or assistant");
                return Err(field(&path("role"), problem));
            }
        };
        let content = match self.content {
            Value::String(text) => text,
            Value::Array(parts) => join_parts(&parts, &path("content"))?,
            Value::Null if role == "assistant" => String::new(),
            Value::Null => return Err(field(&path("content"), "is required")),
            _ => return Err(field(&path("content"), "must be a string or a list of text parts")),
        };
        Ok(ChatMessage { role, content, name: self.name })
    }
}

fn join_parts(parts: &[Value], path: &str) -> Result<String, ApiError> {
    let mut joined = String::new();
    for (i, part) in parts.iter().enumerate() {
        match part.get("type").and_then(Value::as_str) {
            Some("text") => match part.get("text").and_then(Value::as_str) {
                Some(text) => joined.push_str(text),
                None => return Err(field(&format!("{path}[{i}].text"), "must be a string")),
            },
            Some(other) => {
                return Err(unsupported(&format!("{path}[{i}].type"), format!("a part of type `{other}`")));
            }
            None => return Err(field(&format!("{path}[{i}].type"), "is required")),
        }
    }
    Ok(joined)
}
