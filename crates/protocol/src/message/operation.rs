//! What a worker does for a client beside generating: everything that needs the model's tokenizer.

use serde::{Deserialize, Serialize};

use super::{
    Prompt,
    limits::{self, MAX_ANSWER_TOKENS},
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
}

/// What is to be tokenized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizeInput {
    /// Chat messages are rendered by the model's template first.
    pub prompt: Prompt,
    /// Whether the tokenizer adds special tokens, such as the one that begins a text. A chat template writes its own.
    pub add_special_tokens: bool,
}

/// The result of an [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Of [`OperationKind::Tokenize`].
    Tokens(#[serde(deserialize_with = "limits::at_most::<_, _, MAX_ANSWER_TOKENS>")] Vec<u32>),
    /// Of [`OperationKind::Count`].
    Count(u64),
    /// Of [`OperationKind::Detokenize`].
    Text(String),
}

impl Answer {
    /// Whether it may be sent, as far as that does not depend on the ring.
    pub fn is_within_limits(&self) -> bool {
        match self {
            Self::Tokens(tokens) => tokens.len() <= MAX_ANSWER_TOKENS,
            Self::Count(_) | Self::Text(_) => true,
        }
    }
}
