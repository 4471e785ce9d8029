//! Stage 10, emit: from a sampled token to what its client sees of it, and one report a step of all that.

mod detokenizer;
mod outbox;
mod stop_strings;

use std::sync::Arc;

pub use detokenizer::{Decoded, Detokenizer, decode};
pub(super) use outbox::{Outbox, failed};
use protocol::message::{FinishReason, TokenChunk};
pub use stop_strings::{Scanned, Scanner, StopStrings};
use tokenizers::Tokenizer;

/// Turns the tokens of one sequence into text and looks for stop strings in it.
#[derive(Debug)]
pub struct Emitter {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: Scanner,
}

impl Emitter {
    /// An emitter for a sequence that stops at any of `stops`, even where one is the text of a special token.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: &[String]) -> Self {
        let added = tokenizer.get_added_vocabulary();
        let special: Vec<&str> = added
            .get_added_tokens_decoder()
            .values()
            .filter(|token| token.special && !token.content.is_empty())
            .map(|token| token.content.as_str())
            .collect();
        let stops = StopStrings::new(stops, |stop| special.iter().any(|special| stop.contains(special)));
        let detokenizer = Detokenizer::new(&tokenizer);
        Self { tokenizer, detokenizer, stops: Scanner::new(stops) }
    }

    /// The chunk for a token that is part of the output, and whether a stop string ended it.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn push(&mut self, token: u32) -> tokenizers::Result<(TokenChunk, Option<FinishReason>)> {
        let scanned = match self.detokenizer.push(&self.tokenizer, token)? {
            Decoded::Text(piece) => self.stops.push(&piece),
            Decoded::Special(text) => self.special(&text)?,
        };
        let (text, reason) = match scanned {
            Scanned::Text(text) => (text, None),
            Scanned::Stopped(text) => (text, Some(FinishReason::Stop)),
        };
        Ok((TokenChunk { text, tokens: vec![token] }, reason))
    }

    /// Text that was held back, when the sequence ends for another reason than a stop string; and whether a stop string
    /// was in it.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn finish(&mut self) -> tokenizers::Result<(String, Option<FinishReason>)> {
        let rest = self.detokenizer.finish(&self.tokenizer)?;
        let shown = match self.stops.push(&rest) {
            Scanned::Text(text) => text,
            Scanned::Stopped(text) => return Ok((text, Some(FinishReason::Stop))),
        };
        Ok(match self.stops.finish() {
            Scanned::Text(text) => (shown + &text, None),
            Scanned::Stopped(text) => (shown + &text, Some(FinishReason::Stop)),
        })
    }

    fn special(&mut self, text: &str) -> tokenizers::Result<Scanned> {
        let scanned = self.stops.push_hidden(text);
        match scanned {
            // Text of an incomplete character was generated before the token.
            Scanned::Stopped(text) if self.stops.stopped_at_end() => {
                Ok(Scanned::Stopped(text + &self.detokenizer.finish(&self.tokenizer)?))
            }
            scanned => Ok(scanned),
        }
    }
}

#[cfg(test)]
mod tests;
