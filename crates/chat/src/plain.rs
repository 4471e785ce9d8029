//! Of models that mark nothing.

use crate::{OutputParser, ParserEvent};

/// Passes every piece on as text.
#[derive(Debug, Default)]
pub(crate) struct Plain;

impl OutputParser for Plain {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        if !piece.is_empty() {
            events.push(ParserEvent::Text(piece));
        }
    }

    fn push_special(&mut self, _token: &str, _events: &mut Vec<ParserEvent>) {}

    fn in_answer(&self) -> bool {
        true
    }

    fn finish(&mut self, _events: &mut Vec<ParserEvent>) {}
}
