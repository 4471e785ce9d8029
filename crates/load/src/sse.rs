//! Server-sent events of a chat, out of the parts in which they come.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::usage::Usage;

/// What one event says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Text, at least one character.
    pub(crate) text: Option<String>,
    /// Why the generation ended.
    pub(crate) finish: Option<String>,
    /// Code of the error that ended it.
    pub(crate) error: Option<String>,
    /// How many tokens there were.
    pub(crate) usage: Option<Usage>,
    /// `[DONE]`.
    pub(crate) done: bool,
}

/// Collects parts of a stream until an event is complete.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were taken.
    taken: usize,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<ErrorObject>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct ErrorObject {
    code: Option<String>,
}

const DATA: &[u8] = b"data: ";
const DONE: &[u8] = b"[DONE]";
const END: &[u8] = b"\n\n";

impl Parser {
    /// Adds what has come.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(data);
    }

    /// The next event that is complete. Comments are left out.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            let rest = &self.buffer[self.taken..];
            let Some(len) = rest.windows(END.len()).position(|window| window == END) else { return Ok(None) };
            self.taken += len + END.len();
            if let Some(data) = rest[..len].strip_prefix(DATA) {
                return event(data).map(Some);
            }
        }
    }
}

fn event(data: &[u8]) -> Result<Event> {
    if data == DONE {
        return Ok(Event { done: true, ..Event::default() });
    }
    let Chunk { choices, error, usage } = serde_json::from_slice(data)
        .with_context(|| format!("an event is not a chunk: {}", String::from_utf8_lossy(data)))?;
    let mut event = Event { usage, ..Event::default() };
    for Choice { delta, finish_reason } in choices {
        event.text = delta.content.filter(|text| !text.is_empty());
        event.finish = finish_reason;
    }
    event.error = error.map(|error| error.code.unwrap_or_else(|| "unknown".into()));
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        "\n\n: keep-alive\n\n",
        r#"data: {"choices":[{"index":0,"delta":{"content":"größer"},"finish_reason":null}]}"#,
        "\n\n",
        r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":null}"#,
        "\n\n",
        r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
        "\n\ndata: [DONE]\n\n",
        r#"data: {"error":{"message":"m","code":"worker_lost"}}"#,
        "\n\n",
    );

    #[test]
    fn events_do_not_depend_on_how_they_are_cut() -> Result<()> {
        let expected = [
            Event::default(),
            Event { text: Some("größer".into()), ..Event::default() },
            Event { finish: Some("length".into()), ..Event::default() },
            Event { usage: Some(Usage { prompt: 3, cached: 0, answer: 1 }), ..Event::default() },
            Event { done: true, ..Event::default() },
            Event { error: Some("worker_lost".into()), ..Event::default() },
        ];
        for size in 1..STREAM.len() {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for part in STREAM.as_bytes().chunks(size) {
                parser.push(part);
                while let Some(event) = parser.next_event()? {
                    events.push(event);
                }
            }
            assert_eq!(events, expected, "in parts of {size}");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        let mut parser = Parser::default();
        parser.push(b"data: {\n\n");
        assert!(parser.next_event().is_err());
    }
}
