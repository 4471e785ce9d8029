//! Why something was not done.

use serde::{Deserialize, Serialize};

use super::limits::{self, MAX_FAILURE_TEXT};

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
    /// The model does not fit into the memory that workers may use.
    TooLarge,
}
