//! Stage 10, emit: from a sampled token to what its client sees of it, and one report a step of all that.

mod detokenizer;
mod logprobs;
mod outbox;
mod pieces;
mod stop_strings;

use std::sync::Arc;

use chat::{Format, OutputParser, ParserEvent};
pub use detokenizer::{Decoded, Detokenizer, decode};
use logprobs::LogprobTexts;
pub(super) use outbox::{Outbox, failed};
pub use pieces::PieceReader;
use protocol::message::{FinishReason, OutputPart, TokenLogprobs};
pub use stop_strings::{Scanned, Scanner, StopStrings};
use tokenizers::Tokenizer;

use crate::sample::Ranking;

/// Turns the tokens of one sequence into text, takes apart what its model marks, and looks for stop strings in the answer.
#[derive(Debug)]
pub struct Emitter {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    /// Of a model that marks parts of its output.
    parser: Option<Box<dyn OutputParser>>,
    /// What came behind the text that [`push`](Self::push) returned, and was not taken yet.
    parts: Vec<OutputPart>,
    /// The last token belongs to the answer.
    in_answer: bool,
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
            parser: None,
            parts: Vec::new(),
            in_answer: true,
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

    /// The same, at its beginning, for an output in this format.
    #[must_use]
    pub fn with_format(self, format: &Format) -> Self {
        Self { parser: (!format.is_plain()).then(|| format.parser()), ..self }
    }

    /// The text of the answer that a token of the output makes certain, and whether a stop string ended it. What belongs to
    /// other parts, and what comes behind these, waits for [`take_parts`](Self::take_parts).
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn push(&mut self, token: u32) -> tokenizers::Result<(String, Option<FinishReason>)> {
        self.taken = self.taken.saturating_add(1);
        self.stops.set_armed(self.taken > self.ends.min_tokens);
        let scanned = match self.detokenizer.push(&self.tokenizer, token)? {
            Decoded::Text(piece) => self.text(piece),
            Decoded::Special(text) => self.special(&text)?,
        };
        Ok(match scanned {
            Scanned::Text(text) => (text, None),
            Scanned::Stopped(text) => (text, Some(FinishReason::Stop)),
        })
    }

    /// What came behind the text that was returned since this was called last.
    pub fn take_parts(&mut self) -> Vec<OutputPart> {
        std::mem::take(&mut self.parts)
    }

    /// Whether the last token belongs to the answer: for a model that marks nothing, every token does.
    pub fn in_answer(&self) -> bool {
        self.in_answer
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
            self.in_answer &= self.parser.is_none();
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
        let shown = match self.text(rest) {
            Scanned::Text(text) => text,
            Scanned::Stopped(text) => return Ok((text, Some(FinishReason::Stop))),
        };
        let shown = match self.parse(shown, |parser, events| parser.finish(events)) {
            Scanned::Text(text) => text,
            Scanned::Stopped(text) => return Ok((text, Some(FinishReason::Stop))),
        };
        Ok(match self.stops.finish() {
            Scanned::Text(text) => (shown + &self.behind_parts(text), None),
            Scanned::Stopped(text) => (shown + &self.behind_parts(text), Some(FinishReason::Stop)),
        })
    }

    /// How likely a token was, with the texts of all tokens.
    pub fn logprobs(&mut self, ranking: Ranking) -> TokenLogprobs {
        self.logprob_texts.get_or_insert_with(|| LogprobTexts::new(&self.tokenizer)).read(ranking)
    }

    /// A piece of the output's text. Stop strings are looked for in the answer.
    fn text(&mut self, piece: String) -> Scanned {
        if self.parser.is_none() {
            return self.stops.push(&piece);
        }
        let scanned = self.parse(String::new(), |parser, events| parser.push(piece, events));
        self.in_answer = self.parser.as_ref().is_some_and(|parser| parser.in_answer());
        scanned
    }

    fn special(&mut self, text: &str) -> tokenizers::Result<Scanned> {
        if self.parser.is_some() {
            return self.marker(text);
        }
        let scanned = self.stops.push_hidden(text);
        match scanned {
            // Text of an incomplete character was generated before the token.
            Scanned::Stopped(text) if self.stops.stopped_at_end() => {
                Ok(Scanned::Stopped(text + &self.detokenizer.finish(&self.tokenizer)?))
            }
            scanned => Ok(scanned),
        }
    }

    /// A special token of a model that marks parts of its output: the texts before and behind it are apart.
    fn marker(&mut self, token: &str) -> tokenizers::Result<Scanned> {
        let rest = self.detokenizer.end_text(&self.tokenizer)?;
        let mut shown = match self.text(rest) {
            Scanned::Text(text) => text,
            stopped => return Ok(stopped),
        };
        match self.stops.push_hidden(token) {
            Scanned::Text(text) => shown += &self.behind_parts(text),
            Scanned::Stopped(text) => return Ok(Scanned::Stopped(shown + &self.behind_parts(text))),
        }
        let scanned = self.parse(shown, |parser, events| parser.push_special(token, events));
        self.in_answer = false;
        Ok(scanned)
    }

    /// What becomes of what a parser finds: text of the answer behind `shown`, as far as it is certain, and parts. A stop
    /// string in the answer ends all of it.
    fn parse(
        &mut self,
        mut shown: String,
        read: impl FnOnce(&mut dyn OutputParser, &mut Vec<ParserEvent>),
    ) -> Scanned {
        let Some(parser) = &mut self.parser else { return Scanned::Text(shown) };
        let mut events = Vec::new();
        read(parser.as_mut(), &mut events);
        for event in events {
            let (scanned, part) = match event {
                ParserEvent::Text(text) => (self.stops.push(&text), None),
                other => (self.stops.interrupt(), part(other)),
            };
            match scanned {
                Scanned::Text(text) => shown += &self.behind_parts(text),
                Scanned::Stopped(text) => return Scanned::Stopped(shown + &self.behind_parts(text)),
            }
            self.parts.extend(part);
        }
        Scanned::Text(shown)
    }

    /// Text of the answer that is certain now. Behind parts that were not taken it is one itself.
    fn behind_parts(&mut self, text: String) -> String {
        if self.parts.is_empty() || text.is_empty() {
            return text;
        }
        self.parts.push(OutputPart::Text(text));
        String::new()
    }
}

/// What is sent of an event. The end of a call follows from what comes next.
fn part(event: ParserEvent) -> Option<OutputPart> {
    Some(match event {
        ParserEvent::Text(text) => OutputPart::Text(text),
        ParserEvent::Reasoning(text) => OutputPart::Reasoning(text),
        ParserEvent::ToolCallStart { index, name } => OutputPart::CallStart { index, name },
        ParserEvent::ToolCallArguments { index, json } => OutputPart::CallArguments { index, json },
        ParserEvent::ToolCallEnd { .. } => return None,
    })
}

#[cfg(test)]
mod tests;
