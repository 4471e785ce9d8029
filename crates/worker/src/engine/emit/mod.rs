//! Stage 10, emit: from a sampled token to what its client sees of it, and one report a step of all that.

mod detokenizer;
mod logprobs;
mod outbox;
mod pieces;
mod stop_strings;

use std::sync::Arc;

pub use detokenizer::{Decoded, Detokenizer, decode};
use logprobs::LogprobTexts;
pub(super) use outbox::{Outbox, failed};
pub use pieces::PieceReader;
use protocol::message::{FinishReason, TokenLogprobs};
pub use stop_strings::{Scanned, Scanner, StopStrings};
use tokenizers::Tokenizer;

use crate::sample::Ranking;

/// Turns the tokens of one sequence into text and looks for stop strings in it.
#[derive(Debug)]
pub struct Emitter {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: Scanner,
    ends: Ends,
    /// Tokens so far.
    taken: u32,
    /// Once somebody asks.
    logprob_texts: Option<LogprobTexts>,
}

/// When an output ends, and with what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// Before as many tokens no stop string ends it.
    pub min_tokens: u32,
    /// What ends it is shown.
    pub shown: bool,
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
        Self {
            tokenizer,
            detokenizer,
            stops: Scanner::new(stops),
            ends: Ends::default(),
            taken: 0,
            logprob_texts: None,
        }
    }

    /// The same, at its beginning, for an output that ends like this.
    #[must_use]
    pub fn with_ends(mut self, ends: Ends) -> Self {
        if ends.shown {
            self.stops.show_stop();
        }
        self.stops.set_armed(ends.min_tokens == 0);
        Self { ends, ..self }
    }

    /// The text that a token of the output makes certain, and whether a stop string ended it.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn push(&mut self, token: u32) -> tokenizers::Result<(String, Option<FinishReason>)> {
        self.taken = self.taken.saturating_add(1);
        self.stops.set_armed(self.taken > self.ends.min_tokens);
        let scanned = match self.detokenizer.push(&self.tokenizer, token)? {
            Decoded::Text(piece) => self.stops.push(&piece),
            Decoded::Special(text) => self.special(&text)?,
        };
        Ok(match scanned {
            Scanned::Text(text) => (text, None),
            Scanned::Stopped(text) => (text, Some(FinishReason::Stop)),
        })
    }

    /// The rest of an output that ends with `token`, which is shown only if what ends an output is.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn end_with(&mut self, token: u32) -> tokenizers::Result<String> {
        let text = if self.ends.shown {
            match self.push(token)? {
                (text, None) => text,
                (text, Some(_)) => return Ok(text),
            }
        } else {
            String::new()
        };
        Ok(text + &self.finish()?.0)
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

    /// How likely a token was, with the texts of all tokens.
    pub fn logprobs(&mut self, ranking: Ranking) -> TokenLogprobs {
        self.logprob_texts.get_or_insert_with(|| LogprobTexts::new(&self.tokenizer)).read(ranking)
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
