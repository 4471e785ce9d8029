//! Tokens to text, a piece at a time and never half a character.

use tokenizers::Tokenizer;

/// A character of UTF-8 has at most four bytes, so at most this many byte tokens are incomplete together.
/// More pending tokens mean bytes that will never be a character.
const MAX_PENDING: usize = 4;

/// Remembers the few last tokens of one sequence, whose text depends on what follows.
///
/// A token's text can depend on the tokens before it (leading spaces, bytes of one character), so each piece
/// is the difference between two decodings of a short window.
#[derive(Debug, Default)]
pub struct Detokenizer {
    /// `window[..settled]` has been emitted, and gives the rest its context.
    window: Vec<u32>,
    settled: usize,
}

impl Detokenizer {
    /// Text that has become certain with `token`; empty while a character is incomplete.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> tokenizers::Result<String> {
        self.window.push(token);
        let text = self.unsettled(tokenizer)?;
        let pending = self.window.len() - self.settled;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && pending < MAX_PENDING {
            return Ok(String::new());
        }
        self.window.drain(..self.settled);
        self.settled = self.window.len();
        Ok(text)
    }

    /// Text of an incomplete character at the end of the output: replacement characters.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> tokenizers::Result<String> {
        let text = self.unsettled(tokenizer)?;
        self.settled = self.window.len();
        Ok(text)
    }

    fn unsettled(&self, tokenizer: &Tokenizer) -> tokenizers::Result<String> {
        let before = tokenizer.decode(&self.window[..self.settled], true)?;
        let mut all = tokenizer.decode(&self.window, true)?;
        // The settled part decodes to the same text with and without what follows, unless a decoder
        // rewrites it: then nothing sensible can be taken back, and the longest common part is cut.
        let common = all.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        let cut = (0..=common).rev().find(|&at| all.is_char_boundary(at)).unwrap_or(0);
        Ok(all.split_off(cut))
    }
}
