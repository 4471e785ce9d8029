//! The format of gpt-oss, which OpenAI calls harmony.
//!
//! An output is a sequence of messages: a header, `<|message|>`, a body, and a token that ends it. The header names the
//! channel (`analysis` is reasoning, `final` and `commentary` are for the user), and of a call the tool that it is for:
//!
//! ```text
//! <|channel|>analysis<|message|>They ask for the weather.<|end|>
//! <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
//! ```
//!
//! The prompt ends with `<|start|>assistant`, so the first header has no beginning. All markers are special tokens: what
//! ordinary tokens spell is text, so a user who has a model repeat markers gets text, and no call.

use crate::{OutputParser, ParserEvent};

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";

/// What ends a message and with it the model's turn.
pub(crate) const TURN_ENDS: [&str; 2] = ["<|call|>", "<|return|>"];

/// What templates of such models write.
pub(crate) const WRITTEN: [&str; 3] = [START, CHANNEL, MESSAGE];

/// Reasoning as long as the model likes, or none, and then the answer.
pub(crate) const AROUND_ANSWER: &str = r#"start: reasoning? <|channel|> FINAL <|message|> @answer
reasoning: <|channel|> ANALYSIS <|message|> TEXT? <|end|> <|start|> ASSISTANT
FINAL: "final"
ANALYSIS: "analysis"
ASSISTANT: "assistant"
TEXT: /(.|\n)+/
"#;

/// How the first header of a call can begin.
const RECIPIENT: &str = " to=";

/// Longest header, in bytes: a name has at most 64, and what stands around it has less than that.
const MAX_HEADER: usize = 256;

/// Most texts of a header between special tokens. Models write three.
const MAX_PARTS: usize = 8;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Text,
    Reasoning,
    /// Arguments of the call with this number.
    Call(u32),
}

#[derive(Debug)]
enum State {
    /// No special token has come yet: this may be the beginning of a header.
    Start(String),
    Header(Header),
    Body(Body),
}

/// What stands before a body.
#[derive(Debug, Default)]
struct Header {
    /// The texts between its special tokens.
    parts: Vec<String>,
    /// Which of them the channel begins.
    channel: Option<usize>,
}

/// Reads messages by their headers.
#[derive(Debug)]
pub(crate) struct Harmony {
    state: State,
    calls: u32,
}

impl Default for Harmony {
    fn default() -> Self {
        Self { state: State::Start(String::new()), calls: 0 }
    }
}

impl OutputParser for Harmony {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        match &mut self.state {
            State::Start(held) => {
                held.push_str(&piece);
                let may_be_header = held.starts_with(RECIPIENT) || RECIPIENT.starts_with(held.as_str());
                if !may_be_header || held.len() > MAX_HEADER {
                    self.flush(events);
                }
            }
            State::Header(header) => {
                header.push(&piece);
                if !header.is_within_limits() {
                    self.flush(events);
                }
            }
            State::Body(body) => body.push(piece, events),
        }
    }

    fn push_special(&mut self, token: &str, events: &mut Vec<ParserEvent>) {
        match token {
            MESSAGE => self.begin_body(events),
            CHANNEL | CONSTRAIN => self.go_on_with_header(token, events),
            START => {
                self.end_message(events);
                self.state = State::Header(Header::default());
            }
            END => self.end_message(events),
            token if TURN_ENDS.contains(&token) => self.end_message(events),
            // Not of this format, and not part of an output.
            _ => {}
        }
    }

    fn in_answer(&self) -> bool {
        matches!(self.state, State::Body(Body::Text))
    }

    fn finish(&mut self, events: &mut Vec<ParserEvent>) {
        self.end_message(events);
    }
}

impl Harmony {
    /// A special token that stands in headers.
    fn go_on_with_header(&mut self, token: &str, events: &mut Vec<ParserEvent>) {
        let is_channel = token == CHANNEL;
        match &mut self.state {
            State::Header(header) => {
                header.begin_part(is_channel);
                if !header.is_within_limits() {
                    self.flush(events);
                }
            }
            State::Start(held) => {
                let mut header = Header { parts: vec![std::mem::take(held)], channel: None };
                header.begin_part(is_channel);
                self.state = State::Header(header);
            }
            // A message that ends without saying so.
            State::Body(_) if is_channel => {
                self.end_message(events);
                let mut header = Header::default();
                header.begin_part(true);
                self.state = State::Header(header);
            }
            State::Body(_) => {}
        }
    }

    /// Begins the body behind a header.
    fn begin_body(&mut self, events: &mut Vec<ParserEvent>) {
        let header = match &mut self.state {
            State::Start(held) => &Header { parts: vec![std::mem::take(held)], channel: None },
            State::Header(header) => &*header,
            State::Body(_) => return,
        };
        let body = match (header.tool(), header.channel()) {
            (Some(name), _) => {
                let index = self.calls;
                self.calls += 1;
                events.push(ParserEvent::ToolCallStart { index, name: name.to_owned() });
                Body::Call(index)
            }
            (None, Some("analysis")) => Body::Reasoning,
            (None, _) => Body::Text,
        };
        self.state = State::Body(body);
    }

    /// Ends what there is. Between two messages there is nothing; if there is, it is text.
    fn end_message(&mut self, events: &mut Vec<ParserEvent>) {
        match &self.state {
            State::Body(body) => body.end(events),
            // It is cut off, or broken. Neither it nor its special tokens are for anybody.
            State::Header(_) => {}
            State::Start(_) => self.flush(events),
        }
        self.state = State::Body(Body::Text);
    }

    /// What was held back is no header: it is text.
    fn flush(&mut self, events: &mut Vec<ParserEvent>) {
        let text = match std::mem::replace(&mut self.state, State::Body(Body::Text)) {
            State::Start(held) => held,
            State::Header(header) => header.parts.concat(),
            State::Body(_) => return,
        };
        Body::Text.push(text, events);
    }
}

impl Header {
    fn push(&mut self, piece: &str) {
        match self.parts.last_mut() {
            Some(part) => part.push_str(piece),
            None => self.parts.push(piece.to_owned()),
        }
    }

    /// A special token has come; perhaps the one before a channel.
    fn begin_part(&mut self, is_channel: bool) {
        if is_channel {
            self.channel.get_or_insert(self.parts.len());
        }
        self.parts.push(String::new());
    }

    fn is_within_limits(&self) -> bool {
        self.parts.len() <= MAX_PARTS && self.parts.iter().map(String::len).sum::<usize>() <= MAX_HEADER
    }

    fn channel(&self) -> Option<&str> {
        self.parts.get(self.channel?)?.split_whitespace().next()
    }

    /// The tool that the message is for, if it is for one.
    fn tool(&self) -> Option<&str> {
        let (_, rest) = self.parts.iter().find_map(|part| part.split_once(RECIPIENT))?;
        let name = rest.split(char::is_whitespace).next()?;
        let name = name.strip_prefix("functions.").unwrap_or(name);
        (!["", "user", "assistant", "all"].contains(&name)).then_some(name)
    }
}

impl Body {
    fn push(self, text: String, events: &mut Vec<ParserEvent>) {
        if text.is_empty() {
            return;
        }
        events.push(match self {
            Self::Text => ParserEvent::Text(text),
            Self::Reasoning => ParserEvent::Reasoning(text),
            Self::Call(index) => ParserEvent::ToolCallArguments { index, json: text },
        });
    }

    fn end(self, events: &mut Vec<ParserEvent>) {
        if let Self::Call(index) = self {
            events.push(ParserEvent::ToolCallEnd { index });
        }
    }
}

#[cfg(test)]
mod tests;
