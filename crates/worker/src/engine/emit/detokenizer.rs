//! Tokens to text, incrementally: all deltas concatenated are what the whole output decodes to at once.
//!
//! A token's text depends on others: on what comes before it (leading spaces, bytes of one character) and on what comes
//! after it (the rest of a character). So a few last tokens are decoded together, and what they give beyond what was given
//! before is new. Special tokens play no part in this: decoding drops them first.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::{Decoder, Tokenizer};

/// Tokens that are decoded again as context of new ones. A token has a byte at least, and after four bytes UTF-8 is
/// decoded the same from wherever one began.
const CONTEXT: usize = 5;

/// What a token contributes to the output.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Text that has become certain; empty while it depends on what follows.
    Text(String),
    /// A special token, which is not part of the output. This is its text.
    Special(String),
}

/// The last tokens of one sequence.
#[derive(Debug)]
pub struct Detokenizer {
    traits: Traits,
    /// Tokens that are decoded together; special ones are not among them.
    window: Vec<String>,
    /// How much of the window's text was given.
    given: usize,
}

/// How a tokenizer's decoder joins tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traits {
    /// Tokens such as `<0xE2>` are bytes. Adjacent ones are decoded together: if they are not valid UTF-8 as a whole,
    /// each becomes a replacement character. So none of them is certain before the last.
    byte_fallback: bool,
    /// Bytes at the end that a replacement in the joined text may still change.
    unsure: usize,
}

impl Detokenizer {
    /// At the beginning of an output.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let decoder = tokenizer.get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok());
        let mut traits = Traits::default();
        traits.read(&decoder.unwrap_or_default(), &mut false);
        Self { traits, window: Vec::new(), given: 0 }
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> tokenizers::Result<Decoded> {
        // Decoding drops ids without a token, as models have that were padded to a round size.
        let Some(token) = tokenizer.id_to_token(token) else { return Ok(Decoded::Text(String::new())) };
        if tokenizer.get_added_vocabulary().is_special_token(&token) {
            return Ok(Decoded::Special(token));
        }
        let in_run = self.is_byte(&token);
        self.window.push(token);
        if in_run {
            return Ok(Decoded::Text(String::new()));
        }
        let text = decode(tokenizer, &self.window)?;
        let new = self.give(&text, self.certain(&text));
        self.shorten(tokenizer, &text)?;
        Ok(Decoded::Text(new))
    }

    /// What is left at the end of the output, such as the replacement character of an incomplete one.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> tokenizers::Result<String> {
        let text = decode(tokenizer, &self.window)?;
        Ok(self.give(&text, text.len()))
    }

    /// The same, and what follows is a text of its own.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn end_text(&mut self, tokenizer: &Tokenizer) -> tokenizers::Result<String> {
        let rest = self.finish(tokenizer)?;
        self.window.clear();
        self.given = 0;
        Ok(rest)
    }

    fn give(&mut self, text: &str, until: usize) -> String {
        let new = text.get(self.given..until).unwrap_or_default().to_owned();
        self.given = self.given.max(until);
        new
    }

    /// How much of the window's text stays as it is, whatever follows.
    fn certain(&self, text: &str) -> usize {
        // It may be the first bytes of a character; the text alone does not tell.
        let incomplete = if text.ends_with(char::REPLACEMENT_CHARACTER) { '\u{fffd}'.len_utf8() } else { 0 };
        let end = text.len() - self.traits.unsure.max(incomplete).min(text.len());
        (0..=end).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
    }

    /// Drops tokens that are far enough back. `text` is the window's.
    fn shorten(&mut self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<()> {
        if self.window.len() <= 2 * CONTEXT {
            return Ok(());
        }
        let mut start = self.window.len() - CONTEXT;
        while start > 0 && self.is_byte(&self.window[start]) {
            start -= 1;
        }
        // What was not given is at the end, and the same for any window that begins before it. The beginning may differ:
        // decoders strip spaces there.
        let left = text.len() - self.given;
        let shorter = decode(tokenizer, &self.window[start..])?;
        if start > 0 && shorter.len() > left {
            self.window.drain(..start);
            self.given = shorter.len() - left;
        }
        Ok(())
    }

    fn is_byte(&self, token: &str) -> bool {
        let digits = token.strip_prefix("<0x").and_then(|token| token.strip_suffix('>'));
        self.traits.byte_fallback
            && digits.is_some_and(|it| it.len() == 2 && u8::from_str_radix(it, 16).is_ok())
    }
}

impl Traits {
    /// From the decoder as `tokenizer.json` has it. `joined` tells whether an earlier step has joined the tokens.
    fn read(&mut self, decoder: &Value, joined: &mut bool) {
        match decoder["type"].as_str().unwrap_or_default() {
            "Sequence" => {
                for step in decoder["decoders"].as_array().into_iter().flatten() {
                    self.read(step, joined);
                }
            }
            "ByteFallback" => self.byte_fallback = true,
            "Fuse" | "ByteLevel" => *joined = true,
            // Whole tokens are replaced in one go; in joined text, the next token may complete what is replaced.
            "Replace" if *joined => {
                let pattern = &decoder["pattern"];
                self.unsure += pattern["String"].as_str().map_or(32, |text| text.len().saturating_sub(1));
            }
            // The longest of what they clean up is " do not".
            "WordPiece" | "CTC" if *joined => self.unsure += 7,
            _ => {}
        }
    }
}

/// The text of `tokens`, decoded together.
///
/// # Errors
/// Those of the tokenizer's decoder.
pub fn decode(tokenizer: &Tokenizer, tokens: &[String]) -> tokenizers::Result<String> {
    match tokenizer.get_decoder() {
        // Some decoders count back from the last token.
        _ if tokens.is_empty() => Ok(String::new()),
        // Some panic on texts that they did not expect, and this is the thread that serves everyone.
        Some(decoder) => catch_unwind(AssertUnwindSafe(|| decoder.decode(tokens.to_vec())))
            .unwrap_or_else(|_| Err("its decoder panicked".into())),
        None => Ok(tokens.join(" ")),
    }
}

#[cfg(test)]
mod tests;
