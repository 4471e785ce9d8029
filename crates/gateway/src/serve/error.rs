//! Why a request was not served, or not to its end.

pub use protocol::message::{Failure, FailureKind};

use super::{admission::Rejection, rejection::OperationRejection};
pub use crate::fleet::{ModelError, RouteError};

/// Why a request was not served, or not to its end. A dialect shows it, and one table in `http`
/// gives it a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// It was not admitted.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It is an operation, and there is no place for it.
    #[error(transparent)]
    OperationRejected(#[from] OperationRejection),
    /// No worker can take it.
    #[error(transparent)]
    Unroutable(#[from] RouteError),
    /// Its model could not be loaded.
    #[error(transparent)]
    NoModel(ModelError),
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

impl From<ModelError> for ServeError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::NotLoaded(error) => Self::Unroutable(error),
            error => Self::NoModel(error),
        }
    }
}

impl From<Failure> for ServeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
