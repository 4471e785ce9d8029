//! A conversation, as a template sees it.

use minijinja::Value;
use protocol::message::{ChatMessage, ToolCall};
use serde_json::{Map, Value as Json, json};

use super::{SpecialTokens, values::from_json};

/// The names under which clients give a message's reasoning; the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What a prompt is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Chat {
    /// Objects with `role`, `content`, and whatever else the model's template reads.
    pub messages: Vec<Json>,
    /// A list of tools, or null.
    pub tools: Json,
    /// A list of documents, or null.
    pub documents: Json,
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// More variables, such as `enable_thinking`. They come before all others.
    pub more: Map<String, Json>,
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            tools: Json::Null,
            documents: Json::Null,
            add_generation_prompt: true,
            more: Map::new(),
        }
    }
}

impl Chat {
    /// A conversation without tools, or whose tools are not to be called any more.
    pub fn of(messages: &[ChatMessage]) -> Self {
        Self { messages: messages.iter().map(object).collect(), ..Self::default() }
    }

    /// The same with a list of tools.
    #[must_use]
    pub fn with_tools(self, tools: Json) -> Self {
        Self { tools, ..self }
    }

    /// The template's variables.
    pub(super) fn variables(&self, special_tokens: &SpecialTokens) -> Vec<(String, Value)> {
        let messages: Value = self.messages.iter().map(|message| from_json(&normalized(message))).collect();
        let mut variables = vec![
            ("messages".to_owned(), messages),
            ("tools".to_owned(), from_json(&self.tools)),
            ("documents".to_owned(), from_json(&self.documents)),
            ("add_generation_prompt".to_owned(), Value::from(self.add_generation_prompt)),
        ];
        // A token that the model lacks is undefined, not empty.
        variables
            .extend(special_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str()))));
        variables.extend(self.more.iter().map(|(name, value)| (name.clone(), from_json(value))));
        variables
    }
}

/// A message as clients of transformers write it.
fn object(message: &ChatMessage) -> Json {
    let ChatMessage { role, content, name, reasoning, tool_calls, tool_call_id } = message;
    let mut object = Map::new();
    object.insert("role".into(), role.as_str().into());
    object.insert("content".into(), content.as_str().into());
    for (key, value) in [("name", name), (REASONING[0], reasoning), ("tool_call_id", tool_call_id)] {
        if let Some(value) = value {
            object.insert(key.into(), value.as_str().into());
        }
    }
    if !tool_calls.is_empty() {
        object.insert("tool_calls".into(), tool_calls.iter().map(call).collect());
    }
    Json::Object(object)
}

/// A call as transformers has it, whose arguments are an object. What is none stays a text.
fn call(call: &ToolCall) -> Json {
    let ToolCall { id, name, arguments } = call;
    let parsed = serde_json::from_str(arguments).ok().filter(Json::is_object);
    let arguments = parsed.unwrap_or_else(|| arguments.as_str().into());
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// A message as `apply_chat_template` hands it on: without keys that have no value, and with its reasoning under the
/// names that templates know.
fn normalized(message: &Json) -> Json {
    let Json::Object(entries) = message else { return message.clone() };
    let given = || entries.iter().filter(|(_, value)| !value.is_null());
    let reasoning = REASONING.iter().find_map(|name| entries.get(*name).filter(|value| !value.is_null()));
    let mut object = Map::new();
    if let Some(reasoning) = reasoning {
        object.insert("thinking".into(), reasoning.clone());
    }
    object.extend(given().map(|(name, value)| (name.clone(), value.clone())));
    if let Some(reasoning) = reasoning {
        object.insert("reasoning_content".into(), reasoning.clone());
    }
    Json::Object(object)
}
