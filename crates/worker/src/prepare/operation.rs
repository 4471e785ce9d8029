//! What a tokenizer is asked for without a generation. The bounds are those of prompts: what a prompt could not be is
//! refused before anything is spent on it.

use protocol::message::{Failure, Prompt};

use super::{
    preparer::{Preparer, invalid},
    tokens::too_long,
};
use crate::engine::emit::decode;

impl Preparer {
    /// Token ids of a prompt, as a generation would begin with them. Without `add_special_tokens` a text gets no token
    /// that marks its beginning or end; in a chat the template writes those, whatever is asked for.
    ///
    /// # Errors
    /// The prompt is far too long for the model's context, or its tokenizer or template fails on it. The failure names
    /// the field to blame.
    pub fn tokenize(&self, prompt: &Prompt, add_special_tokens: bool) -> Result<Vec<u32>, Failure> {
        self.encode(prompt, add_special_tokens)
    }

    /// How many tokens [`tokenize`](Self::tokenize) gives.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize).
    pub fn count(&self, prompt: &Prompt, add_special_tokens: bool) -> Result<usize, Failure> {
        self.encode(prompt, add_special_tokens).map(|tokens| tokens.len())
    }

    /// The text of `tokens`, all decoded at once: with that of special tokens, or without.
    ///
    /// # Errors
    /// There are more tokens than the model's context has, one is not the model's, or the tokenizer fails on them.
    pub fn detokenize(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, Failure> {
        let (length, vocab_size) = (self.settings.context_length, self.settings.vocab_size);
        if tokens.len() > length {
            return Err(too_long(length, &tokens.len().to_string(), PARAM));
        }
        if let Some(token) = tokens.iter().find(|&&token| token >= vocab_size) {
            let message = format!("token {token} is not in the model's vocabulary of {vocab_size} tokens");
            return Err(invalid(PARAM, message));
        }
        let tokenizer = self.tokenizer.tokenizer();
        let is_special = |text: &String| tokenizer.get_added_vocabulary().is_special_token(text);
        // Decoding drops ids without a token, as models have that were padded to a round size.
        let texts = tokens.iter().filter_map(|&token| tokenizer.id_to_token(token));
        let texts: Vec<String> = texts.filter(|text| !(skip_special_tokens && is_special(text))).collect();
        self.tokenizer.check_decoded(&texts, PARAM)?;
        decode(tokenizer, &texts)
            .map_err(|error| invalid(PARAM, format!("the model's tokenizer can't decode them: {error}")))
    }
}

/// The field that failures of [`Preparer::detokenize`] name.
const PARAM: &str = "tokens";

#[cfg(test)]
mod tests;
