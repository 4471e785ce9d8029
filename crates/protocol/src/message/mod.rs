//! What the two processes say to each other once a [`Segment`](crate::shm::Segment) connects them.
//!
//! The gateway sends [`Batch`]es of [`Submission`]s; the worker answers with [`Report`]s. An enum's
//! variants and a struct's fields are encoded by position: append, never reorder, and raise
//! [`ProtocolVersion`](crate::handshake::ProtocolVersion) when something is added.

mod generate;
mod report;
mod submission;

pub use generate::{ChatMessage, Generate, Prompt, Sampling};
pub use report::{
    Failure, FailureKind, FinishReason, Heartbeat, ModelInfo, Report, StreamEvent, StreamEventKind,
    TokenChunk, Usage, Verified,
};
pub use submission::{Batch, Submission};
