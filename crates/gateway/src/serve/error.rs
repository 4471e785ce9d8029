//! Why a request was not served, or not to its end.

pub use protocol::message::{Failure, FailureKind};

use super::admission::Rejection;
pub use crate::fleet::RouteError;

/// Why a request was not served, or not to its end. A dialect shows it, and one table in `http`
/// gives it a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// It was not admitted.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// No worker can take it.
    #[error(transparent)]
    Unroutable(#[from] RouteError),
    /// Its client's deadline passed while it ran.
    #[error("the request's deadline passed before its answer was complete")]
    DeadlinePassed,
    /// Its worker could not do it, or was lost.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// A defect: a worker sent events in an order that no worker may send.
    #[error("internal error in the gateway; its log says more")]
    Internal,
}

impl From<Failure> for ServeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
