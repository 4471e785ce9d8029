//! What a tokenizer is asked for without a generation. The bounds are those of prompts: what a prompt could not be is
//! refused before anything is spent on it.

use protocol::message::{
    Answer, ChatMessage, Failure, FailureKind, MAX_ANSWER_TOKENS, Operation, OperationKind, PieceForm,
    Pieces, TokenizeInput,
};

use super::{
    control::Conversation,
    draft,
    embed::PreparedInputs,
    preparer::{Preparer, invalid},
    tokens::too_long,
};
use crate::engine::emit::{PieceReader, decode};

/// What has come of an operation here.
#[derive(Clone, Debug, PartialEq)]
pub enum Operated {
    /// It is done.
    Answered(Answer),
    /// The model is to embed this.
    Prepared(PreparedInputs),
}

impl Preparer {
    /// Does what the gateway asks for.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn operate(&self, operation: Operation) -> Result<Operated, Failure> {
        let answer = match operation.kind {
            OperationKind::Embed(input) => return self.embed(&input).map(Operated::Prepared),
            OperationKind::Tokenize(input) => self.tokenize(&input).map(Answer::Tokens),
            OperationKind::Count(input) => self.count(&input).map(|count| Answer::Count(count as u64)),
            OperationKind::Detokenize { tokens, skip_special_tokens } => {
                self.detokenize(&tokens, skip_special_tokens).map(Answer::Text)
            }
            OperationKind::Render { messages, add_generation_prompt } => {
                self.render(&messages, add_generation_prompt).map(Answer::Text)
            }
            OperationKind::CheckDraft { draft } => self.check_draft(&draft),
            OperationKind::Pieces { input, form } => self.pieces(&input, form).map(Answer::Pieces),
        };
        answer.map(Operated::Answered)
    }

    /// Token ids of a prompt, as a generation would begin with them. Without `add_special_tokens` a text gets no token
    /// that marks its beginning or end; in a chat the template writes those, whatever is asked for.
    ///
    /// # Errors
    /// The prompt is far too long for the model's context or for an answer, or its tokenizer or template fails on it.
    /// The failure names the field to blame.
    pub fn tokenize(&self, input: &TokenizeInput) -> Result<Vec<u32>, Failure> {
        let tokens = self.encode_input(input)?;
        if tokens.len() > MAX_ANSWER_TOKENS {
            return Err(too_many(tokens.len()));
        }
        Ok(tokens)
    }

    /// How many tokens [`tokenize`](Self::tokenize) gives.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize), but that there is no limit for an answer.
    pub fn count(&self, input: &TokenizeInput) -> Result<usize, Failure> {
        self.encode_input(input).map(|tokens| tokens.len())
    }

    /// What [`tokenize`](Self::tokenize) gives, with the text of each token.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize).
    pub fn pieces(&self, input: &TokenizeInput, form: PieceForm) -> Result<Pieces, Failure> {
        let tokens = self.tokenize(input)?;
        let reader = PieceReader::new(self.tokenizer.tokenizer().as_ref(), form);
        let mut pieces = Pieces::with_capacity(tokens.len());
        tokens.into_iter().for_each(|token| pieces.push(token, &reader.read(token)));
        Ok(pieces)
    }

    /// The text of a chat's prompt, as a generation would begin with it.
    ///
    /// # Errors
    /// The model has no template, or it refuses the messages or fails on them.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String, Failure> {
        let (text, disguised) =
            self.rendered(Conversation { messages, tools: None }, add_generation_prompt)?;
        Ok(disguised.map_or_else(|| text.clone(), |disguised| disguised.reveal(&text)))
    }

    /// Whether the stored model `draft` can draft tokens for this one.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn check_draft(&self, draft: &str) -> Result<Answer, Failure> {
        let drafts = self.drafts.as_ref().ok_or_else(|| Failure {
            kind: FailureKind::Internal,
            param: None,
            message: "this worker has no store to look for a draft model".into(),
        })?;
        let draft = drafts.tokenizer(draft)?;
        Ok(draft::compare(self.tokenizer.tokenizer(), draft.tokenizer()))
    }

    fn encode_input(&self, input: &TokenizeInput) -> Result<Vec<u32>, Failure> {
        self.encode(&input.prompt, None, input.add_special_tokens, input.add_generation_prompt)
    }

    /// The text of `tokens`, all decoded at once: with that of special tokens, or without.
    ///
    /// # Errors
    /// There are more tokens than the model's context has, one is not the model's, or the tokenizer fails on them.
    pub fn detokenize(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, Failure> {
        let (length, vocab_size) = (self.settings.most_tokens(), self.settings.vocab_size);
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

fn too_many(tokens: usize) -> Failure {
    Failure {
        kind: FailureKind::InvalidRequest,
        param: None,
        message: format!("there are {tokens} tokens; an answer has at most {MAX_ANSWER_TOKENS}"),
    }
}

#[cfg(test)]
mod tests;
