//! What the text of a chat model means: which part is its answer, which is reasoning, which is a call of a tool.
//!
//! Models write all three as one stream, each family in its own [`Format`]. An [`OutputParser`] reads one format, piece
//! by piece as the text is generated, and turns it into [`ParserEvent`]s, which no longer depend on the format. Which one
//! a model writes, its chat template tells.
//!
//! ```
//! let format = chat::Format::of_template("<|start|>{{ role }}<|channel|>final<|message|>{{ content }}");
//! let mut parser = format.parser();
//! let mut events = Vec::new();
//! parser.push_special("<|channel|>", &mut events);
//! parser.push("final".to_owned(), &mut events);
//! parser.push_special("<|message|>", &mut events);
//! parser.push("Hello".to_owned(), &mut events);
//! parser.finish(&mut events);
//! assert_eq!(events, [chat::ParserEvent::Text("Hello".to_owned())]);
//! ```
//!
//! This crate knows text, and which text a special token stands for: neither token ids, nor the wire, nor an HTTP API. A
//! parser belongs to one stream and holds what it has not decided yet, so it has to see all of the stream, in order.
//!
//! # Adding a format
//!
//! 1. Write `src/<format>.rs` with a type that implements [`OutputParser`]. A format that marks only reasoning, or only
//!    tool calls, is worth its own type: another format can wrap it and hand on the text that it finds.
//! 2. Add it to `FORMATS` in `src/format.rs`, with special tokens and a few whole outputs as `samples`. The tests of
//!    that file cut the samples, and random mixtures of them, into random pieces, and compare the events with those of
//!    the uncut text.
//! 3. Test in `src/<format>/tests.rs` what the events are: for outputs of the real model, with and without text around
//!    them; for several calls; for an output that ends inside a call; and for text that only looks like a marker.
//!
//! What a parser has to observe:
//!
//! - **Cuts don't matter.** Pieces are tokens' text, and a marker that is no special token may be cut anywhere. If the text
//!   so far ends with what may be the beginning of one, hold that part back until the next piece decides.
//! - **Hold back little.** Everything that is decided goes out at once, or streaming stutters. For arguments that are
//!   JSON in the output, send fragments as they come; only a format that has to be converted, such as Python's syntax,
//!   may have to wait for the end of a value.
//! - **No text is lost, and nothing fails.** Models make mistakes. What turns out not to be a call is text; what is held
//!   back when the output ends goes out in [`OutputParser::finish`]. Only what is known to be a part of the format, such as
//!   half a header, is dropped. After a call has started, end it in any case: its arguments may then be incomplete JSON,
//!   which the client sees as what the model wrote.
//! - **Bounded.** What is held back is limited by the length of a marker, or by a constant for a header such as a
//!   function's name. Beyond the limit it is text.
//! - **Where the output starts is part of the format.** If the prompt already ends with an opening tag of reasoning, the
//!   format that begins inside it needs its own name.

mod event;
mod format;
mod harmony;
mod plain;

pub use event::ParserEvent;
pub use format::{FORMATS, Format, HARMONY, PLAIN};

/// Reads the output of one stream.
///
/// The events, concatenated, do not depend on how the text was cut into pieces. No input is an error: what a parser can't
/// make sense of is text.
pub trait OutputParser: Send + std::fmt::Debug {
    /// Takes the next piece of text, and appends what it has decided to `events`.
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>);

    /// Takes a special token with this text, which is not part of any text itself.
    fn push_special(&mut self, token: &str, events: &mut Vec<ParserEvent>);

    /// Whether the text that came last belongs to the answer.
    fn in_answer(&self) -> bool;

    /// Ends the output: appends what was held back, and the end of a tool call that is open. Nothing may follow.
    fn finish(&mut self, events: &mut Vec<ParserEvent>);
}
