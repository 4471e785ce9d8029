//! The one table from failures to HTTP statuses and OpenAI's types and codes.

use std::time::Duration;

use axum::http::StatusCode;
use protocol::message::FailureKind;

use super::{ApiError, ModelError, Refusal, Rejection, RouteError};

/// One row of the table.
pub(super) struct Row {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
}

pub(super) const INVALID: &str = "invalid_request_error";
pub(super) const SERVER: &str = "server_error";
const RATE: &str = "rate_limit_error";

/// A place comes free whenever a stream ends.
pub(super) const RETRY_BUSY: Duration = Duration::from_secs(1);
/// A worker's restart takes a back-off and a load.
const RETRY_WORKER: Duration = Duration::from_secs(2);

impl Row {
    /// Trying again as it is changes nothing.
    fn new(status: StatusCode, kind: &'static str, code: &'static str) -> Self {
        Self { status, kind, code: Some(code), retry_after: None }
    }

    fn invalid(code: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, code)
    }

    fn internal(code: &'static str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, code)
    }

    fn busy(code: &'static str) -> Self {
        Self { retry_after: Some(RETRY_BUSY), ..Self::new(StatusCode::TOO_MANY_REQUESTS, RATE, code) }
    }

    fn unavailable(code: &'static str) -> Self {
        Self { retry_after: Some(RETRY_WORKER), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, code) }
    }
}

impl ApiError {
    pub(super) fn row(&self) -> Row {
        let client = |status, code| Row::new(status, INVALID, code);
        match self {
            Self::Malformed { status } => client(*status, "malformed_request"),
            Self::HeaderTimeout => client(StatusCode::REQUEST_TIMEOUT, "header_timeout"),
            Self::TooManyConnections => Row::unavailable("too_many_connections"),
            Self::ForeignHost(_) => client(StatusCode::FORBIDDEN, "host_not_allowed"),
            Self::ForeignOrigin(_) => client(StatusCode::FORBIDDEN, "origin_not_allowed"),
            Self::BadPath => Row::invalid("invalid_path"),
            Self::UnknownPath(_) => client(StatusCode::NOT_FOUND, "unknown_url"),
            Self::Method(_) => client(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::MediaType(_) => client(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::ContentEncoding(_) => client(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding"),
            Self::Charset(_) => client(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_charset"),
            Self::BodyTooLarge { .. } => client(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyBroken(_) => Row::invalid("body_broken"),
            Self::BodyTimeout(_) => client(StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::NotUtf8(_) | Self::Json(_) => Row::invalid("invalid_json"),
            Self::Field { .. } => Row::invalid("invalid_value"),
            Self::Unsupported { .. } => Row::invalid("unsupported_parameter"),
            Self::Unknown { .. } => Row::invalid("unknown_parameter"),
            Self::Memory => Row::busy("out_of_memory_budget"),
            Self::Rejected(rejection) => of_rejection(*rejection),
            Self::Unroutable(error) => of_route(error),
            Self::Refused(Refusal::Disabled) => client(StatusCode::FORBIDDEN, "admin_disabled"),
            Self::Refused(Refusal::NoKey) => client(StatusCode::UNAUTHORIZED, "missing_admin_key"),
            Self::Refused(Refusal::WrongKey) => client(StatusCode::UNAUTHORIZED, "invalid_admin_key"),
            Self::Model(error) => of_model(error),
            Self::Failed(failure) => of_failure(failure.kind),
            Self::Random(_) | Self::Internal => Row::internal("internal_error"),
        }
    }
}

fn of_rejection(rejection: Rejection) -> Row {
    match rejection {
        Rejection::QueueFull { .. } => Row::busy("queue_full"),
        Rejection::WaitedTooLong { .. } => Row::busy("queue_timeout"),
        Rejection::ShuttingDown => Row::unavailable("shutting_down"),
    }
}

fn of_route(error: &RouteError) -> Row {
    match error {
        RouteError::UnknownModel { .. } => Row::new(StatusCode::NOT_FOUND, INVALID, "model_not_found"),
        // It will not come back by waiting.
        RouteError::Unloading { .. } => Row::new(StatusCode::NOT_FOUND, INVALID, "model_unloading"),
        RouteError::NoWorker { .. } => Row::unavailable("no_worker"),
    }
}

fn of_model(error: &ModelError) -> Row {
    let conflict = |code| Row::new(StatusCode::CONFLICT, INVALID, code);
    match error {
        ModelError::Failed { failure, .. } => match failure.kind {
            FailureKind::UnknownModel => Row::new(StatusCode::NOT_FOUND, INVALID, "model_not_found"),
            FailureKind::DamagedModel => Row::new(StatusCode::UNPROCESSABLE_ENTITY, SERVER, "model_damaged"),
            _ => Row::internal("load_failed"),
        },
        ModelError::TooMany { .. } => conflict("too_many_models"),
        ModelError::OtherWorkers { .. } => conflict("already_loaded"),
        ModelError::Unloading(_) | ModelError::Unloaded(_) => conflict("model_unloading"),
        ModelError::NotLoaded(error) => of_route(error),
        ModelError::ShuttingDown => Row::unavailable("shutting_down"),
    }
}

fn of_failure(kind: FailureKind) -> Row {
    match kind {
        FailureKind::InvalidRequest => Row::invalid("invalid_value"),
        FailureKind::ContextLengthExceeded => Row::invalid("context_length_exceeded"),
        FailureKind::WorkerLost => Row::unavailable("worker_lost"),
        FailureKind::Overloaded => Row::unavailable("overloaded"),
        // The last two are about loads, and no answer to a request for text.
        FailureKind::Internal | FailureKind::UnknownModel | FailureKind::DamagedModel => {
            Row::internal("worker_error")
        }
    }
}
