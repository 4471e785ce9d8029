//! The format of gpt-oss, which OpenAI calls harmony.
//!
//! An output is a sequence of messages: a header, `<|message|>`, a body, and a marker that ends it. The header names the
//! channel (`analysis` is reasoning, `final` and `commentary` are for the user), and of a call the tool that it is for:
//!
//! ```text
//! <|channel|>analysis<|message|>They ask for the weather.<|end|>
//! <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
//! ```
//!
//! The prompt ends with `<|start|>assistant`, so the first header has no beginning.

use crate::{OutputParser, ParserEvent};

/// Name of the format.
pub const HARMONY: &str = "harmony";

const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
/// What begins a header, and what ends a body without one.
const OPENINGS: [&str; 2] = ["<|start|>", CHANNEL];
const ENDS: [&str; 3] = ["<|end|>", "<|call|>", "<|return|>"];
/// What an output can begin with, as the end of a header's beginning.
const FIRST: [&str; 4] = [" to=", CHANNEL, MESSAGE, "<|start|>"];
/// Longest header, in bytes: a name has at most 64, and what stands around it has less than that.
const MAX_HEADER: usize = 256;

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
    /// Nothing has come yet.
    Start,
    /// In a header that began with this marker, or with none.
    Header(&'static str),
    Body(Body),
}

/// Reads messages by their headers.
#[derive(Debug)]
pub(crate) struct Harmony {
    state: State,
    /// What is not decided yet: a header, or what may be the beginning of a marker.
    held: String,
    calls: u32,
}

impl Default for Harmony {
    fn default() -> Self {
        Self { state: State::Start, held: String::new(), calls: 0 }
    }
}

impl OutputParser for Harmony {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        self.held.push_str(&piece);
        while self.advance(events) {}
    }

    fn finish(mut self: Box<Self>, events: &mut Vec<ParserEvent>) {
        let body = match self.state {
            State::Body(body) => body,
            State::Header(opening) => {
                self.held.insert_str(0, opening);
                Body::Text
            }
            State::Start => Body::Text,
        };
        body.push(self.held, events);
        body.end(events);
    }
}

impl Harmony {
    /// Whether something was decided, so that what follows may be, too.
    fn advance(&mut self, events: &mut Vec<ParserEvent>) -> bool {
        match self.state {
            State::Start => self.start(),
            State::Header(opening) => self.read_header(opening, events),
            State::Body(body) => self.read_body(body, events),
        }
    }

    fn start(&mut self) -> bool {
        if FIRST.iter().any(|first| self.held.starts_with(first)) {
            self.state = State::Header("");
        } else if FIRST.iter().any(|first| first.starts_with(self.held.as_str())) {
            return false;
        } else {
            self.state = State::Body(Body::Text);
        }
        true
    }

    fn read_header(&mut self, opening: &'static str, events: &mut Vec<ParserEvent>) -> bool {
        // The first header may bring the beginning that others have.
        let from =
            if opening.is_empty() && self.held.starts_with(OPENINGS[0]) { OPENINGS[0].len() } else { 0 };
        let others = [MESSAGE, OPENINGS[0]].into_iter().chain(ENDS);
        match first_marker(&self.held[from..], others) {
            Some((at, MESSAGE)) if at <= MAX_HEADER => {
                let header = format!("{opening}{}", &self.held[..from + at]);
                self.held.drain(..from + at + MESSAGE.len());
                self.begin(&header, events);
            }
            None if self.held.len() <= from + MAX_HEADER + MESSAGE.len() => return false,
            // It is none: text, with its marker.
            _ => {
                let marker = if from > 0 { OPENINGS[0] } else { opening };
                self.held.drain(..from);
                Body::Text.push(marker.to_owned(), events);
                self.state = State::Body(Body::Text);
            }
        }
        true
    }

    /// Begins the body behind a header.
    fn begin(&mut self, header: &str, events: &mut Vec<ParserEvent>) {
        let word = |after: &str| {
            let (_, rest) = header.split_once(after)?;
            rest.split(|c: char| c.is_whitespace() || c == '<').next()
        };
        let tool = word(" to=").map(|to| to.strip_prefix("functions.").unwrap_or(to));
        let body = match (tool, word(CHANNEL)) {
            (Some(name), _) if !["", "user", "assistant", "all"].contains(&name) => {
                let index = self.calls;
                self.calls += 1;
                events.push(ParserEvent::ToolCallStart { index, name: name.to_owned() });
                Body::Call(index)
            }
            (_, Some("analysis")) => Body::Reasoning,
            _ => Body::Text,
        };
        self.state = State::Body(body);
    }

    fn read_body(&mut self, body: Body, events: &mut Vec<ParserEvent>) -> bool {
        let Some((at, marker)) = first_marker(&self.held, OPENINGS.into_iter().chain(ENDS)) else {
            let rest = self.held.split_off(self.held.len() - undecided(&self.held));
            body.push(std::mem::replace(&mut self.held, rest), events);
            return false;
        };
        let rest = self.held.split_off(at + marker.len());
        let mut text = std::mem::replace(&mut self.held, rest);
        text.truncate(at);
        body.push(text, events);
        body.end(events);
        // Between two messages there is nothing; if there is, it is text.
        let opening = OPENINGS.contains(&marker);
        self.state = if opening { State::Header(marker) } else { State::Body(Body::Text) };
        true
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

/// The first of the markers in a text, and where it is. No marker is the beginning of another.
fn first_marker(text: &str, markers: impl Iterator<Item = &'static str>) -> Option<(usize, &'static str)> {
    markers.filter_map(|marker| Some((text.find(marker)?, marker))).min()
}

/// Bytes at a text's end that may be the beginning of a marker.
fn undecided(text: &str) -> usize {
    let markers = || OPENINGS.into_iter().chain(ENDS);
    let longest = markers().map(str::len).max().unwrap_or(0).min(text.len());
    let may_begin = |len: &usize| {
        text.get(text.len() - len..).is_some_and(|end| markers().any(|marker| marker.starts_with(end)))
    };
    (1..=longest).rev().find(may_begin).unwrap_or(0)
}

#[cfg(test)]
mod tests;
