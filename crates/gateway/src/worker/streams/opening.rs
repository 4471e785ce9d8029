//! What opening a stream takes, and why it fails.

use std::time::Instant;

use protocol::message::Failure;

use crate::worker::loss::Loss;

/// Where a stream stands that is opened: at its beginning, or where another worker left it.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// When the client's request arrived.
    pub arrived: Instant,
    /// A worker has accepted the prompt before.
    pub prepared: bool,
    /// When the last tokens came.
    pub last_tokens: Option<Instant>,
}

impl Progress {
    /// At its beginning.
    pub fn new(arrived: Instant) -> Self {
        Self { arrived, prepared: false, last_tokens: None }
    }
}

/// Why a stream was not opened.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenError {
    /// The worker takes nothing any more; another one may.
    Lost(Loss),
    /// The request can't be sent to any worker.
    Unsendable(Failure),
}
