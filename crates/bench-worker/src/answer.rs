//! Operations, answered as cheaply as they can be: a token is a byte.

use protocol::message::{Answer, ChatMessage, Failure, FailureKind, OperationKind, Prompt};

use crate::language;

/// Most tokens of an answer, so that it fits into one report over the smallest rings.
const MAX_TOKENS: usize = 128 << 10;

/// The result of an operation.
pub(crate) fn answer(kind: &OperationKind) -> Result<Answer, Failure> {
    match kind {
        OperationKind::Count(input) => Ok(Answer::Count(count(&input.prompt) as u64)),
        OperationKind::Tokenize(input) if count(&input.prompt) > MAX_TOKENS => {
            Err(refused(format!("more than {MAX_TOKENS} tokens are not returned at once")))
        }
        OperationKind::Tokenize(input) => Ok(Answer::Tokens(tokens(&input.prompt))),
        OperationKind::Detokenize { tokens, .. } => language::detokenize(tokens)
            .map(Answer::Text)
            .map_err(|token| refused(format!("there is no token {token}"))),
    }
}

/// Tokens of a prompt.
pub(crate) fn count(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Tokens(tokens) => tokens.len(),
        Prompt::Text(text) => text.len(),
        Prompt::Chat(messages) => parts(messages).map(str::len).sum(),
    }
}

/// The texts of a chat, which are its whole template.
pub(crate) fn parts(messages: &[ChatMessage]) -> impl Iterator<Item = &str> {
    messages.iter().flat_map(|message| [message.role.as_str(), message.content.as_str()])
}

fn tokens(prompt: &Prompt) -> Vec<u32> {
    match prompt {
        Prompt::Tokens(tokens) => tokens.clone(),
        Prompt::Text(text) => language::tokenize(text),
        Prompt::Chat(messages) => parts(messages).flat_map(language::tokenize).collect(),
    }
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::InvalidRequest, param: None, message }
}

#[cfg(test)]
mod tests {
    use protocol::message::TokenizeInput;

    use super::*;

    fn input(text: &str) -> TokenizeInput {
        TokenizeInput { prompt: Prompt::Text(text.into()), add_special_tokens: true }
    }

    #[test]
    fn what_is_tokenized_is_counted_and_comes_back() {
        let tokens = language::tokenize("hello");
        assert_eq!(answer(&OperationKind::Count(input("hello"))), Ok(Answer::Count(5)));
        assert_eq!(answer(&OperationKind::Tokenize(input("hello"))), Ok(Answer::Tokens(tokens.clone())));
        let back = OperationKind::Detokenize { tokens, skip_special_tokens: true };
        assert_eq!(answer(&back), Ok(Answer::Text("hello".into())));
    }

    #[test]
    fn what_can_not_be_answered_is_refused() {
        let unknown = OperationKind::Detokenize { tokens: vec![u32::MAX], skip_special_tokens: false };
        assert_eq!(answer(&unknown).map_err(|failure| failure.kind), Err(FailureKind::InvalidRequest));
        let long = "x".repeat(MAX_TOKENS + 1);
        let long = answer(&OperationKind::Tokenize(input(&long)));
        assert_eq!(long.map_err(|failure| failure.kind), Err(FailureKind::InvalidRequest));
    }
}
