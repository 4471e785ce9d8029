//! Stage 10, emit: from a chosen token to what its client sees of it.

mod detokenizer;
mod stop;

use std::sync::Arc;

pub use detokenizer::Detokenizer;
use protocol::message::{FinishReason, TokenChunk};
pub use stop::{Scanned, StopTexts};
use tokenizers::Tokenizer;

/// The text side of one sequence.
#[derive(Debug)]
pub struct Emitter {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopTexts,
}

impl Emitter {
    /// An emitter for a sequence that stops at any of `stops`.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: &[String]) -> Self {
        Self { tokenizer, detokenizer: Detokenizer::default(), stops: StopTexts::new(stops) }
    }

    /// The chunk for a token that is part of the output, and whether a stop text ended it.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn push(&mut self, token: u32) -> tokenizers::Result<(TokenChunk, Option<FinishReason>)> {
        let piece = self.detokenizer.push(&self.tokenizer, token)?;
        let (text, reason) = match self.stops.push(&piece) {
            Scanned::Text(text) => (text, None),
            Scanned::Stopped(text) => (text, Some(FinishReason::Stop)),
        };
        Ok((TokenChunk { text, tokens: vec![token] }, reason))
    }

    /// Text that was held back, when the sequence ends for another reason than a stop text.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn finish(&mut self) -> tokenizers::Result<String> {
        let rest = self.detokenizer.finish(&self.tokenizer)?;
        Ok(match self.stops.push(&rest) {
            Scanned::Stopped(text) => text,
            Scanned::Text(text) => text + &self.stops.finish(),
        })
    }
}
