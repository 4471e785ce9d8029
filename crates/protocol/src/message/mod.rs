//! What the two processes say to each other once a [`Segment`](crate::shm::Segment) connects them.
//!
//! The gateway sends [`Batch`]es of [`Submission`]s; the worker answers with [`Report`]s. An enum's
//! variants and a struct's fields are encoded by position, and a message is decoded to its last byte: any change of
//! either needs a new [`VERSION`](crate::handshake::VERSION), and only the same version is spoken to.

mod constraint;
mod embed;
mod encoded;
mod event;
mod failure;
mod generate;
mod limits;
mod logprobs;
mod operation;
mod output;
mod report;
mod small;
mod submission;
mod trace;

pub use constraint::{Constraint, ConstraintKind};
pub use embed::{EmbedInput, Embeddings, Truncation};
pub use encoded::{EncodedSubmission, append_operation, append_submission, begin_batch, encode_batch};
pub use event::{Delta, FinishReason, StreamEvent, StreamEventKind, Usage};
pub use failure::{Failure, FailureKind};
pub use generate::{AdapterRef, ChatMessage, Generate, Prompt, Sampling, ToolCall};
pub use limits::{
    MAX_ANSWER_TOKENS, MAX_DELTA_PARTS, MAX_DELTA_TOKENS, MAX_EMBED_INPUTS, MAX_EMBEDDING_SIZE, MAX_EVENTS,
    MAX_FAILURE_TEXT, MAX_TOKEN_BYTES, MAX_TOP_LOGPROBS, max_report_bytes,
};
pub use logprobs::{TokenLogprob, TokenLogprobs};
pub use operation::{Answer, Operation, OperationKind, PieceForm, Pieces, TokenizeInput};
pub use output::OutputPart;
pub use report::{DiskPrefixes, Heartbeat, ModelInfo, Report, StepTime, Verified, WorkerMemory};
pub use small::{DeltaText, DeltaTokens};
pub use submission::{Batch, Submission};
pub use trace::TraceContext;
