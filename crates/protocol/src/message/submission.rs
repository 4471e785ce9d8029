//! Gateway to worker.

use serde::{Deserialize, Serialize};

use super::{Generate, Operation};
use crate::ids::RequestId;

/// Body of a [`FrameKind::Batch`](crate::frame::FrameKind) frame: whatever was queued, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// In the order in which they were submitted.
    pub submissions: Vec<Submission>,
}

/// One item of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Submission {
    /// Start a generation.
    Generate(Box<Generate>),
    /// Its client has gone: stop within one step, send nothing more about it.
    Cancel(RequestId),
    /// The client has read this many more [`Delta`](super::Delta)s.
    Credit {
        /// Whose credit grows.
        id: RequestId,
        /// Chunks that may be sent in addition to those allowed before.
        chunks: u32,
    },
    /// Do something that has a single answer.
    Operation(Box<Operation>),
    /// Finish what was submitted, answer [`Report::Drained`](super::Report::Drained), exit.
    Drain,
}
