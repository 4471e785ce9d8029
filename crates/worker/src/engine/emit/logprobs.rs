//! How likely tokens were, with their texts.

use std::sync::Arc;

use protocol::message::{MAX_TOKEN_BYTES, PieceForm, TokenLogprob, TokenLogprobs};
use tokenizers::Tokenizer;

use super::pieces::PieceReader;
use crate::sample::{Ranked, Ranking};

/// Adds to tokens what they contribute to a text.
#[derive(Debug)]
pub(super) struct LogprobTexts(PieceReader<Arc<Tokenizer>>);

impl LogprobTexts {
    pub(super) fn new(tokenizer: &Arc<Tokenizer>) -> Self {
        Self(PieceReader::new(Arc::clone(tokenizer), PieceForm::Bytes))
    }

    pub(super) fn read(&self, Ranking { chosen, top }: Ranking) -> TokenLogprobs {
        let top = top.into_iter().map(|ranked| self.one(ranked)).collect();
        TokenLogprobs { chosen: self.one(chosen), top }
    }

    fn one(&self, (token, logprob): Ranked) -> TokenLogprob {
        let mut bytes = self.0.read(token);
        bytes.truncate(MAX_TOKEN_BYTES);
        TokenLogprob { token, logprob, special: self.0.is_special(token), bytes }
    }
}
