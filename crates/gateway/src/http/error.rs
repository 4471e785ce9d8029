//! The one table from failures to HTTP statuses and OpenAI's error JSON.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::message::{Failure, FailureKind};
use serde::Serialize;

use crate::{admission::Rejection, router::RouteError};

/// Everything that can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No such path.
    #[error("unknown path {0}; see /v1/models, /v1/chat/completions and /v1/completions")]
    UnknownPath(String),
    /// The path knows other methods.
    #[error("{0} is not allowed here")]
    Method(axum::http::Method),
    /// The body is announced as something else than JSON.
    #[error("the body must be JSON, sent with `Content-Type: application/json`, not `{0}`")]
    MediaType(String),
    /// The body is too large.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body broke off.
    #[error("the body could not be read: {0}")]
    BodyBroken(String),
    /// The body came too slowly.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    BodyTimeout(Duration),
    /// The body is no text.
    #[error("the body is not UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// The body is no JSON.
    #[error("the body is not valid JSON: {0}")]
    Json(serde_json::Error),
    /// A field is missing, of the wrong type, or out of range.
    #[error("{message}")]
    Field {
        /// Its path; `None` if the body itself is meant.
        param: Option<String>,
        /// What is wrong, naming the field.
        message: String,
    },
    /// A field asks for something that this server can't do.
    #[error("`{param}`: {what} is not supported yet")]
    Unsupported {
        /// The field's path.
        param: String,
        /// What it asked for.
        what: String,
    },
    /// Not let in.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nowhere to go.
    #[error(transparent)]
    Unroutable(#[from] RouteError),
    /// The worker could not do it.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// A defect in the gateway.
    #[error("internal error in the gateway; its log says more")]
    Internal,
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// One row of the table.
struct Row {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

/// A place comes free whenever a stream ends.
const RETRY_BUSY: Duration = Duration::from_secs(1);
/// A worker's restart takes a back-off and a load.
const RETRY_WORKER: Duration = Duration::from_secs(2);

impl ApiError {
    fn row(&self) -> Row {
        let row = |status, kind, code| Row { status, kind, code, retry_after: None };
        let retry = |status, kind, code, after| Row { status, kind, code, retry_after: Some(after) };
        let unavailable = |code| retry(StatusCode::SERVICE_UNAVAILABLE, SERVER, code, RETRY_WORKER);
        match self {
            Self::UnknownPath(_) => row(StatusCode::NOT_FOUND, INVALID, Some("unknown_url")),
            Self::Method(_) => row(StatusCode::METHOD_NOT_ALLOWED, INVALID, Some("method_not_allowed")),
            Self::MediaType(_) => {
                row(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Some("unsupported_media_type"))
            }
            Self::BodyTooLarge { .. } => row(StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("body_too_large")),
            Self::BodyBroken(_) => row(StatusCode::BAD_REQUEST, INVALID, None),
            Self::BodyTimeout(_) => row(StatusCode::REQUEST_TIMEOUT, INVALID, Some("body_timeout")),
            Self::NotUtf8(_) | Self::Json(_) => row(StatusCode::BAD_REQUEST, INVALID, Some("invalid_json")),
            Self::Field { .. } => row(StatusCode::BAD_REQUEST, INVALID, Some("invalid_value")),
            Self::Unsupported { .. } => row(StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter")),
            Self::Rejected(Rejection::QueueFull { .. }) => {
                retry(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full"), RETRY_BUSY)
            }
            Self::Rejected(Rejection::WaitedTooLong { .. }) => {
                retry(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_timeout"), RETRY_BUSY)
            }
            Self::Rejected(Rejection::ShuttingDown) => unavailable(Some("shutting_down")),
            Self::Unroutable(RouteError::UnknownModel { .. }) => {
                row(StatusCode::NOT_FOUND, INVALID, Some("model_not_found"))
            }
            Self::Unroutable(RouteError::NoWorker { .. }) => unavailable(Some("no_worker")),
            Self::Failed(failure) => match failure.kind {
                FailureKind::InvalidRequest => row(StatusCode::BAD_REQUEST, INVALID, Some("invalid_value")),
                FailureKind::ContextLengthExceeded => {
                    row(StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"))
                }
                FailureKind::Internal => row(StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some("worker_error")),
                FailureKind::WorkerLost => unavailable(Some("worker_lost")),
            },
            Self::Random(_) | Self::Internal => {
                row(StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some("internal_error"))
            }
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Field { param, .. } => param.as_deref(),
            Self::Unsupported { param, .. } => Some(param),
            Self::Unroutable(RouteError::UnknownModel { .. }) => Some("model"),
            Self::Failed(failure) => failure.param.as_deref(),
            _ => None,
        }
    }

    /// `{"error": {…}}`, as in a response's body and in an error event.
    pub fn body(&self) -> ErrorBody {
        let Row { kind, code, .. } = self.row();
        let (message, param) = (self.to_string(), self.param().map(str::to_owned));
        ErrorBody { error: ErrorJson { message, kind, param, code } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Row { status, retry_after, .. } = self.row();
        let mut response = (status, Json(self.body())).into_response();
        if let Some(after) = retry_after {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
            headers.insert("retry-after-ms", HeaderValue::from(after.as_millis() as u64));
        }
        response
    }
}

/// OpenAI's error object.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    error: ErrorJson,
}

#[derive(Clone, Debug, Serialize)]
struct ErrorJson {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: FailureKind) -> ApiError {
        ApiError::Failed(Failure { kind, param: Some("messages".into()), message: "why".into() })
    }

    fn model(model: &str) -> String {
        model.to_owned()
    }

    #[test]
    fn every_failure_has_its_status_type_and_code() {
        let rejected = |r: Rejection| ApiError::Rejected(r);
        let table = [
            (ApiError::UnknownPath("/x".into()), 404, INVALID, "unknown_url"),
            (ApiError::Method(axum::http::Method::PUT), 405, INVALID, "method_not_allowed"),
            (ApiError::MediaType("text/plain".into()), 415, INVALID, "unsupported_media_type"),
            (ApiError::BodyTooLarge { limit: 1 }, 413, INVALID, "body_too_large"),
            (ApiError::BodyTimeout(Duration::from_secs(1)), 408, INVALID, "body_timeout"),
            (ApiError::NotUtf8(3), 400, INVALID, "invalid_json"),
            (
                ApiError::Unsupported { param: "n".into(), what: "2".into() },
                400,
                INVALID,
                "unsupported_parameter",
            ),
            (rejected(Rejection::QueueFull { waiting: 1 }), 429, "rate_limit_error", "queue_full"),
            (
                rejected(Rejection::WaitedTooLong { waited: RETRY_BUSY }),
                429,
                "rate_limit_error",
                "queue_timeout",
            ),
            (rejected(Rejection::ShuttingDown), 503, SERVER, "shutting_down"),
            (RouteError::NoWorker { model: model("m") }.into(), 503, SERVER, "no_worker"),
            (
                RouteError::UnknownModel { model: model("m"), served: model("s") }.into(),
                404,
                INVALID,
                "model_not_found",
            ),
            (failed(FailureKind::InvalidRequest), 400, INVALID, "invalid_value"),
            (failed(FailureKind::ContextLengthExceeded), 400, INVALID, "context_length_exceeded"),
            (failed(FailureKind::Internal), 500, SERVER, "worker_error"),
            (failed(FailureKind::WorkerLost), 503, SERVER, "worker_lost"),
            (ApiError::Internal, 500, SERVER, "internal_error"),
        ];
        for (error, status, kind, code) in table {
            let body = error.body().error;
            assert_eq!((body.kind, body.code), (kind, Some(code)), "{error}");
            let words = error.to_string();
            let response = error.into_response();
            assert_eq!(response.status(), status, "{words}");
            let retry = response.headers().get(header::RETRY_AFTER).is_some();
            assert_eq!(retry, matches!(status, 429 | 503), "{words}");
            assert_eq!(retry, response.headers().get("retry-after-ms").is_some(), "{words}");
        }
    }
}
