//! A conversation, as a template sees it.

use minijinja::Value;
use protocol::message::ChatMessage;
use serde_json::{Map, Value as Json};

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
    /// A conversation of plain messages.
    pub fn of(messages: &[ChatMessage]) -> Self {
        let object = |message: &ChatMessage| {
            let mut object = Map::new();
            object.insert("role".into(), message.role.as_str().into());
            object.insert("content".into(), message.content.as_str().into());
            if let Some(name) = &message.name {
                object.insert("name".into(), name.as_str().into());
            }
            Json::Object(object)
        };
        Self { messages: messages.iter().map(object).collect(), ..Self::default() }
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
