//! Worker to gateway.

use serde::{Deserialize, Serialize};

use super::limits::{self, MAX_CHUNK_TOKENS, MAX_EVENTS, MAX_FAILURE_TEXT};
use crate::ids::RequestId;

/// Body of a [`FrameKind::Report`](crate::frame::FrameKind) frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// The model is loaded; submissions are served from now on.
    Ready(ModelInfo),
    /// The model can't be loaded; the worker exits after this.
    LoadFailed(Failure),
    /// The worker is alive, and this is what it does.
    Heartbeat(Heartbeat),
    /// Everything that one engine step (or one preparation) produced, for all of its streams.
    Events(#[serde(deserialize_with = "limits::at_most::<_, _, MAX_EVENTS>")] Vec<StreamEvent>),
    /// Every submission before [`Submission::Drain`](super::Submission::Drain) has had its terminal event; the worker
    /// exits after this.
    Drained,
    /// The stored model was read whole, while it served, and is what it should be.
    Verified(Verified),
    /// The stored model was read whole, while it served, and is not what it should be: what was found is set aside,
    /// and the model can't be loaded again until it is repaired.
    Damaged(Failure),
}

/// What verifying cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Bytes whose SHA-256 was computed.
    pub bytes: u64,
    /// Microseconds that it took.
    pub micros: u64,
}

/// What a worker serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The name that clients use.
    pub name: String,
    /// SHA-256 of the artifact's manifest, in hex.
    pub digest: String,
    /// `model_type` of the model's configuration.
    pub architecture: String,
    /// Most tokens of prompt and output together.
    pub context_length: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Bytes of mapped weights.
    pub weight_bytes: u64,
    /// Microseconds from process start until the weights were usable, without the tokenizer.
    pub load_micros: u64,
    /// Microseconds for reading the tokenizer.
    pub tokenizer_micros: u64,
}

/// A sign of life. The engine is stuck if `step` stands still while `runnable > 0`; preparation is stuck if
/// `oldest_preparation_millis` keeps growing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Engine steps since the start.
    pub step: u64,
    /// Sequences in the running set that the next step can extend.
    pub runnable: u32,
    /// Sequences that can't go on until their client's side gives credit.
    pub paused: u32,
    /// Sequences that wait for a place in the running set.
    pub waiting: u32,
    /// How long the oldest prompt in preparation has been worked on; 0 if none is.
    pub oldest_preparation_millis: u64,
    /// Tokens whose keys and values are held.
    pub kv_tokens: u64,
    /// Most tokens whose keys and values may be held.
    pub kv_capacity: u64,
}

/// Something that happened to one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamEvent {
    /// Whose event it is.
    pub id: RequestId,
    /// What happened.
    pub kind: StreamEventKind,
}

/// Events of a stream: `Admitted`, then any number of `Chunk`s, then one `Finished`; or `Failed` at any point.
/// A cancelled stream gets no further event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StreamEventKind {
    /// The prompt was rendered, tokenized and found to fit.
    Admitted {
        /// Its length in tokens.
        prompt_tokens: u32,
    },
    /// Output. Spends one credit.
    Chunk(TokenChunk),
    /// Terminal: the generation ended by itself.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What was used.
        usage: Usage,
    },
    /// Terminal: it could not be started, or could not go on.
    Failed(Failure),
}

impl StreamEvent {
    /// Whether it may be sent, as far as that does not depend on the ring.
    pub fn is_within_limits(&self) -> bool {
        match &self.kind {
            StreamEventKind::Chunk(chunk) => chunk.tokens.len() <= MAX_CHUNK_TOKENS,
            StreamEventKind::Failed(failure) => {
                let param = failure.param.as_ref().map_or(0, String::len);
                failure.message.len().max(param) <= MAX_FAILURE_TEXT
            }
            StreamEventKind::Admitted { .. } | StreamEventKind::Finished { .. } => true,
        }
    }
}

impl StreamEventKind {
    /// Whether nothing may follow in the stream.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed(_))
    }
}

/// A piece of output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenChunk {
    /// Whole characters; may be empty while a character or a possible stop text is incomplete.
    pub text: String,
    /// The tokens generated since the last chunk, so that another worker can continue the stream.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_CHUNK_TOKENS>")]
    pub tokens: Vec<u32>,
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
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure; the gateway's one table turns it into an HTTP status.
    pub kind: FailureKind,
    /// Which field of the request is to blame, in the client's terms.
    pub param: Option<String>,
    /// What happened and what to do, for a person.
    pub message: String,
}

impl Failure {
    /// Cuts what is too long for a log or an answer.
    pub fn shorten(&mut self) {
        limits::cut(&mut self.message, MAX_FAILURE_TEXT);
        if let Some(param) = &mut self.param {
            limits::cut(param, MAX_FAILURE_TEXT);
        }
    }
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request can't be served as it stands.
    InvalidRequest,
    /// The prompt does not fit the model's context.
    ContextLengthExceeded,
    /// Something broke in the worker.
    Internal,
    /// The worker that had it is gone, or is going.
    WorkerLost,
    /// The store has no model of this name or digest.
    UnknownModel,
    /// The stored model is damaged and is not used.
    DamagedModel,
    /// The worker has more to do than it can queue; later it may have less.
    Overloaded,
}
