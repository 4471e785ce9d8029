//! Messages of a chat.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use super::tool_call::TypedCall;
use crate::{
    http::{
        error::ApiError,
        json::{Object, Probe, Text, field, unsupported},
    },
    serve::{ChatMessage, Prompt},
};

/// A message as typed. Clients send back what an answer had, and more: other fields are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::http::openai) struct Message {
    role: Option<Text>,
    content: Option<Content>,
    name: Option<Text>,
    tool_calls: Option<Vec<Object<TypedCall>>>,
    tool_call_id: Option<Text>,
    reasoning_content: Option<Text>,
    reasoning: Option<Text>,
    thinking: Option<Text>,
    function_call: Probe,
    audio: Probe,
    images: Probe,
    prefix: Probe,
    partial: Probe,
}

/// A message's text. Parts are joined.
#[derive(Debug)]
struct Content {
    text: String,
    /// The first part that can't be text, and what is wrong with it.
    wrong: Option<(usize, Wrong)>,
}

#[derive(Debug)]
enum Wrong {
    Type(String),
    NoType,
    NoText,
}

/// One part of a content: a text, or an object with one.
enum Part {
    Text(String),
    Wrong(Wrong),
}

/// As an object.
#[derive(Deserialize)]
struct TypedPart {
    #[serde(rename = "type")]
    kind: Option<Text>,
    text: Option<Text>,
}

impl Message {
    fn check(self, index: usize) -> Result<ChatMessage, ApiError> {
        self.check_foreign(index)?;
        let path = |name: &str| format!("messages[{index}].{name}");
        let Some(Text(role)) = self.role else { return Err(field(&path("role"), "is required")) };
        let role = match role.as_str() {
            "system" | "user" | "assistant" | "tool" => role,
            // OpenAI's newer name for it; templates of open models know the older.
            "developer" => "system".into(),
            "function" => {
                return Err(unsupported(&path("role"), "calling functions; `tool` is the newer role"));
            }
            role => {
                let problem = format!("is `{role}`, but must be system, developer, user, assistant or tool");
                return Err(field(&path("role"), problem));
            }
        };
        let is_assistant = role == "assistant";
        let content = match self.content {
            Some(content) => content.check(&path("content"))?,
            None if is_assistant => String::new(),
            None => return Err(field(&path("content"), "is required")),
        };
        let calls = self.tool_calls.unwrap_or_default();
        if !is_assistant && !calls.is_empty() {
            return Err(field(&path("tool_calls"), "is a field of an assistant's message"));
        }
        let calls = calls.into_iter().enumerate();
        let tool_calls =
            calls.map(|(call, Object(typed))| typed.check(&path(&format!("tool_calls[{call}]"))));
        let reasoning = [self.reasoning_content, self.reasoning, self.thinking].into_iter().flatten();
        let reasoning = reasoning.map(|Text(text)| text).find(|text| is_assistant && !text.is_empty());
        let text = |text: Option<Text>| text.map(|Text(text)| text);
        Ok(ChatMessage {
            role,
            content,
            name: text(self.name),
            reasoning,
            tool_calls: tool_calls.collect::<Result<_, _>>()?,
            tool_call_id: text(self.tool_call_id),
        })
    }

    /// Fields that ask for what this server doesn't offer.
    fn check_foreign(&self, index: usize) -> Result<(), ApiError> {
        for (name, value, what) in [
            ("function_call", &self.function_call, "calling functions; `tool_calls` is the newer field"),
            ("audio", &self.audio, "audio"),
            ("images", &self.images, "input other than text"),
            ("prefix", &self.prefix, "continuing the last message"),
            ("partial", &self.partial, "continuing the last message"),
        ] {
            if value.is_filled() && *value != Probe::Flag(false) {
                return Err(unsupported(&format!("messages[{index}].{name}"), what));
            }
        }
        Ok(())
    }
}

impl Content {
    fn check(self, path: &str) -> Result<String, ApiError> {
        let Some((part, wrong)) = self.wrong else { return Ok(self.text) };
        let path = |name: &str| format!("{path}[{part}].{name}");
        Err(match wrong {
            Wrong::Type(kind) => unsupported(&path("type"), format!("a part of type `{kind}`")),
            Wrong::NoType => field(&path("type"), "is required"),
            Wrong::NoText => field(&path("text"), "is required"),
        })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Contents)
    }
}

struct Contents;

impl<'de> Visitor<'de> for Contents {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of text parts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content { text: text.to_owned(), wrong: None })
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
        Ok(Content { text, wrong: None })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut content = Content { text: String::new(), wrong: None };
        for index in 0.. {
            match list.next_element()? {
                Some(Part::Text(text)) => content.text.push_str(&text),
                Some(Part::Wrong(wrong)) => {
                    content.wrong.get_or_insert((index, wrong));
                }
                None => break,
            }
        }
        Ok(content)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text part")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Part, E> {
        Ok(Part::Text(text.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Part, A::Error> {
        let TypedPart { kind, text } = Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(match (kind.as_ref().map(|Text(kind)| kind.as_str()), text) {
            // The names of OpenAI's newer interface, and of programs that leave the type out.
            (Some("text" | "input_text" | "output_text") | None, Some(Text(text))) => Part::Text(text),
            (Some("text" | "input_text" | "output_text"), None) => Part::Wrong(Wrong::NoText),
            (Some(kind), _) => Part::Wrong(Wrong::Type(kind[..kind.floor_char_boundary(40)].to_owned())),
            (None, None) => Part::Wrong(Wrong::NoType),
        })
    }
}

/// The prompt of a chat.
pub(in crate::http::openai) fn chat_prompt(
    messages: Option<Vec<Object<Message>>>,
) -> Result<Prompt, ApiError> {
    let messages = messages.ok_or_else(|| field("messages", "is required"))?;
    if messages.is_empty() {
        return Err(field("messages", "must not be empty"));
    }
    let messages = messages.into_iter().enumerate();
    let messages: Result<_, _> = messages.map(|(index, Object(message))| message.check(index)).collect();
    messages.map(Prompt::Chat)
}
