//! What happens to one request, in the worker's words.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    Answer, Failure, OutputPart, TokenLogprobs,
    limits::{self, MAX_DELTA_PARTS, MAX_DELTA_TOKENS, MAX_FAILURE_TEXT},
    small::{self, DeltaText, DeltaTokens},
};
use crate::ids::RequestId;

/// Something that happened to one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamEvent {
    /// Whose event it is.
    pub id: RequestId,
    /// What happened.
    pub kind: StreamEventKind,
}

/// Events of a generation: `Prepared`, then `Started`, then any number of `Delta`s, then one `Finished`. Of an operation: one `Answered`.
/// Either may end with `Failed` instead, at any point. A cancelled request gets no further event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StreamEventKind {
    /// The prompt was rendered, tokenized and found to fit.
    Prepared {
        /// Its length in tokens.
        prompt_tokens: u32,
    },
    /// Output. Spends one credit.
    Delta(Delta),
    /// Terminal: the generation ended by itself.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What was used.
        usage: Usage,
    },
    /// Terminal: it could not be started, or could not go on.
    Failed(Failure),
    /// Terminal: the operation's result.
    Answered(Answer),
    /// The generation is about to take part in a step for the first time. Sent before that step: should it end the worker,
    /// those that were waiting have no part in it.
    Started {
        /// Tokens whose keys and values are cached, so that they are not computed.
        cached_tokens: u32,
    },
}

impl StreamEvent {
    /// Whether it may be sent, as far as that does not depend on the ring.
    pub fn is_within_limits(&self) -> bool {
        match &self.kind {
            StreamEventKind::Delta(delta) => delta.is_within_limits(),
            StreamEventKind::Failed(failure) => {
                let param = failure.param.as_ref().map_or(0, String::len);
                failure.message.len().max(param) <= MAX_FAILURE_TEXT
            }
            StreamEventKind::Answered(answer) => answer.is_within_limits(),
            StreamEventKind::Prepared { .. }
            | StreamEventKind::Started { .. }
            | StreamEventKind::Finished { .. } => true,
        }
    }
}

impl StreamEventKind {
    /// Whether nothing may follow in the stream.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed(_) | Self::Answered(_))
    }
}

/// A piece of output. The deltas of a stream cover its tokens without a gap, also where another worker continues it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Position in the output of the first of `tokens`, from 0.
    pub first_token: u32,
    /// The tokens generated since the last delta, so that another worker can continue the stream.
    #[serde(deserialize_with = "small::at_most::<_, MAX_DELTA_TOKENS>")]
    pub tokens: DeltaTokens,
    /// More of the answer. Whole characters; may be empty while a character or a possible stop string is incomplete.
    pub text: DeltaText,
    /// What follows `text`, in order: of a model that marks parts of its output. Empty for any other.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_DELTA_PARTS>")]
    pub parts: Vec<OutputPart>,
    /// How likely each of `tokens` was that belongs to the answer, which for most models is all of them; empty unless the
    /// request asks for it.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_DELTA_TOKENS>")]
    pub logprobs: Vec<TokenLogprobs>,
}

impl Delta {
    /// Positions of its tokens in the output.
    pub fn token_range(&self) -> Range<u32> {
        self.first_token..self.first_token.saturating_add(self.tokens.len() as u32)
    }

    fn is_within_limits(&self) -> bool {
        self.tokens.len() <= MAX_DELTA_TOKENS
            && self.parts.len() <= MAX_DELTA_PARTS
            && self.logprobs.len() <= MAX_DELTA_TOKENS
            && self.logprobs.iter().all(TokenLogprobs::is_within_limits)
    }
}

/// Why a generation ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinishReason {
    /// A token or a text that means the end.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

/// Tokens that a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, including the one that ended it.
    pub completion_tokens: u32,
    /// Tokens of the prompt whose keys and values were already held.
    pub cached_tokens: u32,
    /// Tokens of the output that were guessed before they were computed, right or wrong.
    pub drafted_tokens: u32,
    /// Those of them that were right.
    pub accepted_tokens: u32,
}
