//! The format of models that mark nothing.

use crate::{OutputParser, ParserEvent};

/// Name of the format in which everything is text.
pub const PLAIN: &str = "plain";

/// Passes every piece on as text.
#[derive(Debug, Default)]
pub(crate) struct Plain;

impl OutputParser for Plain {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        if !piece.is_empty() {
            events.push(ParserEvent::Text(piece));
        }
    }

    fn finish(self: Box<Self>, _: &mut Vec<ParserEvent>) {}
}
