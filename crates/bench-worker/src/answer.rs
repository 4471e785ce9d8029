//! Operations, answered as cheaply as they can be: a token is a byte.

use protocol::message::{Answer, ChatMessage, Failure, FailureKind, OperationKind, Pieces, Prompt};

use crate::language;

/// Most tokens of an answer, so that it fits into one report over the smallest rings.
const MAX_TOKENS: usize = 64 << 10;

/// The result of an operation. Of this language there are no special tokens, and a chat's template is its texts.
pub(crate) fn answer(kind: &OperationKind) -> Result<Answer, Failure> {
    match kind {
        OperationKind::Count(input) => Ok(Answer::Count(count(&input.prompt) as u64)),
        OperationKind::Tokenize(input) => Ok(Answer::Tokens(tokens(&input.prompt)?)),
        OperationKind::Detokenize { tokens, .. } => text(tokens).map(Answer::Text),
        OperationKind::Render { messages, .. }
            if parts(messages).map(str::len).sum::<usize>() > MAX_TOKENS =>
        {
            Err(too_long())
        }
        OperationKind::Render { messages, .. } => Ok(Answer::Text(parts(messages).collect())),
        OperationKind::Pieces { input, .. } => {
            let tokens = tokens(&input.prompt)?;
            let mut pieces = Pieces::with_capacity(tokens.len());
            for token in tokens {
                pieces.push(token, &language::bytes(token).map_err(unknown)?);
            }
            Ok(Answer::Pieces(pieces))
        }
        OperationKind::Embed(_) => Err(refused("this model generates text and does not embed it".to_owned())),
        OperationKind::CheckDraft { .. } => Ok(Answer::DraftCheck {
            compatible: true,
            reason: None,
            vocab_size: language::VOCABULARY,
            draft_vocab_size: language::VOCABULARY,
        }),
    }
}

fn text(tokens: &[u32]) -> Result<String, Failure> {
    if tokens.len() > MAX_TOKENS {
        return Err(too_long());
    }
    language::detokenize(tokens).map_err(unknown)
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

fn tokens(prompt: &Prompt) -> Result<Vec<u32>, Failure> {
    if count(prompt) > MAX_TOKENS {
        return Err(too_long());
    }
    Ok(match prompt {
        Prompt::Tokens(tokens) => tokens.clone(),
        Prompt::Text(text) => language::tokenize(text),
        Prompt::Chat(messages) => parts(messages).flat_map(language::tokenize).collect(),
    })
}

fn unknown(token: u32) -> Failure {
    refused(format!("token {token} is not in the vocabulary"))
}

fn too_long() -> Failure {
    refused(format!("more than {MAX_TOKENS} tokens are not returned at once"))
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::InvalidRequest, param: None, message }
}

#[cfg(test)]
mod tests {
    use protocol::message::{PieceForm, TokenizeInput};

    use super::*;

    fn input(text: &str) -> TokenizeInput {
        TokenizeInput {
            prompt: Prompt::Text(text.into()),
            add_special_tokens: true,
            add_generation_prompt: true,
        }
    }

    #[test]
    fn what_is_tokenized_is_counted_and_comes_back() {
        let tokens = language::tokenize("hello");
        assert_eq!(answer(&OperationKind::Count(input("hello"))), Ok(Answer::Count(5)));
        assert_eq!(answer(&OperationKind::Tokenize(input("hello"))), Ok(Answer::Tokens(tokens.clone())));
        let back = OperationKind::Detokenize { tokens, skip_special_tokens: true };
        assert_eq!(answer(&back), Ok(Answer::Text("hello".into())));
        let mut pieces = Pieces::default();
        for byte in b"hi" {
            pieces.push(u32::from(*byte), &[*byte]);
        }
        let kind = OperationKind::Pieces { input: input("hi"), form: PieceForm::Bytes };
        assert_eq!(answer(&kind), Ok(Answer::Pieces(pieces)));
    }

    #[test]
    fn a_chat_is_its_texts() {
        let message = ChatMessage::new("user", "hi");
        let render = OperationKind::Render { messages: vec![message], add_generation_prompt: true };
        assert_eq!(answer(&render), Ok(Answer::Text("userhi".into())));
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
