//! What a worker does for a client beside generating: everything that needs the model's tokenizer or template.

use serde::{Deserialize, Serialize};

use super::{
    ChatMessage, EmbedInput, Embeddings, Prompt,
    limits::{self, MAX_ANSWER_TOKENS, MAX_FAILURE_TEXT},
};
use crate::ids::RequestId;

/// A request with a single answer. It spends no credit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Names the request that the answer goes to.
    pub id: RequestId,
    /// What to do.
    pub kind: OperationKind,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OperationKind {
    /// The tokens of a prompt, however long: [`Answer::Tokens`].
    Tokenize(TokenizeInput),
    /// How many tokens a prompt has: [`Answer::Count`].
    Count(TokenizeInput),
    /// The text of tokens: [`Answer::Text`].
    Detokenize {
        /// Ids of the model's vocabulary.
        tokens: Vec<u32>,
        /// Leave out the text of special tokens.
        skip_special_tokens: bool,
    },
    /// The text that the model's template makes of a chat's messages: [`Answer::Text`].
    Render {
        /// The conversation.
        messages: Vec<ChatMessage>,
        /// Whether the text ends with the beginning of an answer.
        add_generation_prompt: bool,
    },
    /// Whether another stored model can draft tokens for this one: [`Answer::DraftCheck`].
    CheckDraft {
        /// The other model's name or digest in the artifact store.
        draft: String,
    },
    /// The tokens of a prompt, with the text of each: [`Answer::Pieces`].
    Pieces {
        /// The prompt.
        input: TokenizeInput,
        /// Which text of a token is meant.
        form: PieceForm,
    },
    /// The embeddings of texts: [`Answer::Embeddings`].
    Embed(EmbedInput),
}

/// What is to be tokenized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizeInput {
    /// Chat messages are rendered by the model's template first.
    pub prompt: Prompt,
    /// Whether the tokenizer adds special tokens, such as the one that begins a text. A chat template writes its own.
    pub add_special_tokens: bool,
    /// Whether a rendered chat ends with the beginning of an answer. Of no meaning for other prompts.
    pub add_generation_prompt: bool,
}

/// Which text of a token is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceForm {
    /// As the vocabulary has it: `Ġthe` or `▁the`.
    Vocabulary,
    /// What the token contributes to a decoded text: ` the`. It may be a part of a character.
    Bytes,
}

/// Tokens, and a text of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Their ids.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_ANSWER_TOKENS>")]
    tokens: Vec<u32>,
    /// The number of bytes of each.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_ANSWER_TOKENS>")]
    lengths: Vec<u32>,
    /// The texts, one behind the other.
    bytes: Vec<u8>,
}

/// The result of an [`Operation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Of [`OperationKind::Tokenize`].
    Tokens(#[serde(deserialize_with = "limits::at_most::<_, _, MAX_ANSWER_TOKENS>")] Vec<u32>),
    /// Of [`OperationKind::Count`].
    Count(u64),
    /// Of [`OperationKind::Detokenize`] and [`OperationKind::Render`].
    Text(String),
    /// Of [`OperationKind::CheckDraft`].
    DraftCheck {
        /// Whether the other model can draft for this one.
        compatible: bool,
        /// Why it can't, for a person; `None` if it can.
        reason: Option<String>,
        /// Ids of this model's vocabulary, up to the last one that has a token.
        vocab_size: u32,
        /// The same of the other model.
        draft_vocab_size: u32,
    },
    /// Of [`OperationKind::Pieces`].
    Pieces(Pieces),
    /// Of [`OperationKind::Embed`].
    Embeddings(Embeddings),
}

impl TokenizeInput {
    /// A prompt as its generation would begin with it.
    pub fn new(prompt: Prompt) -> Self {
        Self { prompt, add_special_tokens: true, add_generation_prompt: true }
    }
}

impl OperationKind {
    /// How many kinds there are.
    pub const COUNT: usize = 7;

    /// Its number among the kinds, below [`OperationKind::COUNT`].
    pub fn index(&self) -> usize {
        match self {
            Self::Tokenize(_) => 0,
            Self::Count(_) => 1,
            Self::Detokenize { .. } => 2,
            Self::Render { .. } => 3,
            Self::CheckDraft { .. } => 4,
            Self::Pieces { .. } => 5,
            Self::Embed(_) => 6,
        }
    }

    /// Its name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        const NAMES: [&str; OperationKind::COUNT] =
            ["tokenize", "count", "detokenize", "render", "check_draft", "pieces", "embed"];
        NAMES[self.index()]
    }

    /// About the bytes that it takes, here and on the wire, and a measure of the work that it is.
    pub fn approximate_bytes(&self) -> usize {
        match self {
            Self::Tokenize(input) | Self::Count(input) | Self::Pieces { input, .. } => {
                input.prompt.approximate_bytes()
            }
            Self::Detokenize { tokens, .. } => size_of_val(tokens.as_slice()),
            Self::Render { messages, .. } => messages.iter().map(ChatMessage::approximate_bytes).sum(),
            Self::CheckDraft { draft } => draft.len(),
            Self::Embed(input) => input.approximate_bytes(),
        }
    }
}

impl Pieces {
    /// Room for `count` tokens.
    pub fn with_capacity(count: usize) -> Self {
        Self { tokens: Vec::with_capacity(count), lengths: Vec::with_capacity(count), bytes: Vec::new() }
    }

    /// Adds a token.
    pub fn push(&mut self, token: u32, bytes: &[u8]) {
        self.tokens.push(token);
        self.lengths.push(bytes.len() as u32);
        self.bytes.extend_from_slice(bytes);
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Each token's id and text. A peer whose lengths don't fit its bytes gets empty texts.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, &[u8])> {
        let mut begin = 0_usize;
        self.tokens.iter().enumerate().map(move |(index, &token)| {
            let end = begin.saturating_add(self.lengths.get(index).map_or(0, |&length| length as usize));
            let bytes = self.bytes.get(begin..end).unwrap_or_default();
            begin = end;
            (token, bytes)
        })
    }
}

impl Answer {
    /// Whether it may be sent, as far as that does not depend on the ring.
    pub fn is_within_limits(&self) -> bool {
        match self {
            Self::Tokens(tokens) => tokens.len() <= MAX_ANSWER_TOKENS,
            Self::Pieces(pieces) => pieces.len() <= MAX_ANSWER_TOKENS,
            Self::DraftCheck { reason, .. } => {
                reason.as_ref().is_none_or(|reason| reason.len() <= MAX_FAILURE_TEXT)
            }
            Self::Embeddings(embeddings) => embeddings.is_within_limits(),
            Self::Count(_) | Self::Text(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pieces_come_back_in_order_and_a_wrong_length_breaks_nothing() {
        let mut pieces = Pieces::with_capacity(3);
        for (token, bytes) in [(7, &b"ab"[..]), (8, b""), (9, b"c")] {
            pieces.push(token, bytes);
        }
        let expected: [(u32, &[u8]); 3] = [(7, b"ab"), (8, b""), (9, b"c")];
        assert_eq!(pieces.iter().collect::<Vec<_>>(), expected);
        for lengths in [vec![], vec![u32::MAX; 3], vec![1], vec![9, 0, 0, 4]] {
            let wrong = Pieces { lengths, ..pieces.clone() };
            assert_eq!(wrong.iter().map(|(token, _)| token).collect::<Vec<_>>(), [7, 8, 9]);
        }
    }
}
