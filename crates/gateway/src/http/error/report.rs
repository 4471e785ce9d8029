//! What a client is told of an error.

use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;

use super::spec::ErrorKind;
use crate::{
    http::public::public,
    serve::{Occupancy, RateExceeded, admission::Rejection},
};

/// What a client is told about an error. Each dialect writes it in its own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) struct ErrorReport {
    pub(in crate::http) kind: ErrorKind,
    /// `None` for an error of a layer that has none.
    pub(in crate::http) code: Option<&'static str>,
    /// What happened and what to do, for a person.
    pub(in crate::http) message: String,
    /// The path of the field that is to blame.
    pub(in crate::http) param: Option<String>,
    /// The request's id, where it is known.
    pub(in crate::http) request_id: Option<String>,
    /// When the same request may succeed.
    pub(in crate::http) retry_after: Option<Duration>,
    /// What is full, of an error that says that something is.
    pub(in crate::http) full: Option<Full>,
}

/// What is full, as every dialect writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Full {
    /// The places of a model, and its wait queue or the time to wait there.
    Queue(Occupancy),
    /// A rate.
    RateLimit {
        /// `requests` or `tokens`.
        unit: &'static str,
        per_minute: u64,
    },
}

impl Full {
    pub(super) fn of(rejection: &Rejection) -> Option<Self> {
        match *rejection {
            Rejection::QueueFull { occupancy, .. } | Rejection::WaitedTooLong { occupancy, .. } => {
                Some(Self::Queue(occupancy))
            }
            Rejection::RateLimited(RateExceeded { unit, per_minute, .. }) => {
                Some(Self::RateLimit { unit: unit.name(), per_minute })
            }
            Rejection::DeadlinePassed | Rejection::ShuttingDown => None,
        }
    }
}

/// Writes the JSON of a response that is an error, in a dialect's form.
pub(in crate::http) type ErrorWriter = fn(&ErrorReport) -> Vec<u8>;

impl ErrorReport {
    /// Of an error that another layer answered with `status` and perhaps a text.
    pub(in crate::http) fn plain(status: StatusCode, text: &str) -> Self {
        let kind = if status.is_server_error() { ErrorKind::Server } else { ErrorKind::InvalidRequest };
        let reason = || status.canonical_reason().unwrap_or("error").to_owned();
        let message = if text.is_empty() { reason() } else { public(text) };
        Self { kind, code: None, message, param: None, request_id: None, retry_after: None, full: None }
    }

    /// The same, saying of which request it is.
    pub(in crate::http) fn with_request_id(self, id: &str) -> Self {
        Self { request_id: Some(id.to_owned()), ..self }
    }
}
