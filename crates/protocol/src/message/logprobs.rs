//! How likely tokens of an output were.

use serde::{Deserialize, Serialize};

use super::limits::{self, MAX_TOKEN_BYTES, MAX_TOP_LOGPROBS};

/// How likely a token of an output was, and which would have been the most likely: what the model says, before penalties,
/// biases, temperature and filters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token of the output.
    pub chosen: TokenLogprob,
    /// The most likely ones, the first of them first. The chosen one may be among them.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_TOP_LOGPROBS>")]
    pub top: Vec<TokenLogprob>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability; [`TokenLogprob::LEAST`] if it was impossible.
    pub logprob: f32,
    /// A special token, whose text is not shown.
    pub special: bool,
    /// Its text, which may be a part of a character.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_TOKEN_BYTES>")]
    pub bytes: Vec<u8>,
}

impl TokenLogprob {
    /// What stands for the logarithm of 0, as in OpenAI's answers: JSON has no infinity.
    pub const LEAST: f32 = -9999.0;

    fn approximate_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }

    fn is_within_limits(&self) -> bool {
        self.bytes.len() <= MAX_TOKEN_BYTES
    }
}

impl TokenLogprobs {
    /// About the bytes that it takes in memory, and more than when it is encoded.
    pub fn approximate_bytes(&self) -> usize {
        self.all().map(TokenLogprob::approximate_bytes).sum::<usize>() + size_of::<Vec<TokenLogprob>>()
    }

    /// Whether it may be sent.
    pub(super) fn is_within_limits(&self) -> bool {
        self.top.len() <= MAX_TOP_LOGPROBS && self.all().all(TokenLogprob::is_within_limits)
    }

    fn all(&self) -> impl Iterator<Item = &TokenLogprob> {
        std::iter::once(&self.chosen).chain(&self.top)
    }
}
