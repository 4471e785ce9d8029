//! A chat as it is asked.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

/// A chat, and how it is to be answered.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The model.
    pub model: String,
    /// What was said so far.
    pub messages: Vec<Message>,
    /// Tokens of the answer.
    pub tokens: u32,
    /// Whether it has exactly so many, and not at most.
    pub exactly: bool,
    /// A JSON Schema of the answer.
    pub schema: Option<Value>,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Of the draw, where tokens are drawn.
    pub seed: u64,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with the numbers of its tokens. Every event of it is then a little longer.
    pub usage: bool,
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who says it.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args)]
pub struct Sampling {
    /// 0 takes the likeliest token, anything above draws one.
    #[arg(long, default_value_t = Self::GREEDY.temperature)]
    pub temperature: f64,
    /// The likeliest tokens that have this share of the probability are drawn from.
    #[arg(long, default_value_t = Self::GREEDY.top_p)]
    pub top_p: f64,
}

impl Ask {
    /// A streamed chat, greedy.
    pub fn new(model: &str, messages: Vec<Message>, tokens: u32) -> Self {
        let (model, sampling) = (model.to_owned(), Sampling::GREEDY);
        Self {
            model,
            messages,
            tokens,
            exactly: true,
            schema: None,
            sampling,
            seed: 0,
            stream: true,
            usage: false,
        }
    }

    /// The same with a single message.
    pub fn question(model: &str, question: impl Into<String>, tokens: u32) -> Self {
        Self::new(model, vec![Message::user(question)], tokens)
    }

    /// The request's body.
    pub fn body(&self) -> Bytes {
        let Sampling { temperature, top_p } = self.sampling;
        let mut body = json!({
            "model": self.model, "max_tokens": self.tokens, "ignore_eos": self.exactly, "stream": self.stream,
            "temperature": temperature, "messages": self.messages,
        });
        if self.sampling != Sampling::GREEDY {
            body["top_p"] = json!(top_p);
            body["seed"] = json!(self.seed);
        }
        if let Some(schema) = &self.schema {
            body["response_format"] =
                json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
        }
        if self.usage {
            body["stream_options"] = json!({ "include_usage": true });
        }
        body.to_string().into()
    }
}

impl Message {
    /// What the client says.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user", content: content.into() }
    }

    /// What the model has answered.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant", content: content.into() }
    }

    /// What stands before the chat.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system", content: content.into() }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0 };
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_what_is_drawn_has_a_seed() -> Result<()> {
        let greedy = Ask::question("m", "Hello.", 3);
        let drawn = Ask { sampling: Sampling { temperature: 0.8, top_p: 0.9 }, seed: 7, ..greedy.clone() };
        let body = |ask: &Ask| serde_json::from_slice::<Value>(&ask.body());
        let (greedy, drawn) = (body(&greedy)?, body(&drawn)?);
        assert_eq!((&greedy["temperature"], greedy.get("seed")), (&json!(0.0), None));
        assert_eq!(greedy["messages"], json!([{ "role": "user", "content": "Hello." }]));
        assert_eq!((&drawn["top_p"], &drawn["seed"]), (&json!(0.9), &json!(7)));
        Ok(())
    }
}
