//! Everything that can go wrong with a request, and what its client is told, apart from the form: that is the dialect's.

mod report;
mod spec;

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

pub(super) use self::report::{ErrorReport, ErrorWriter, Full};
pub use self::spec::{ErrorKind, ErrorSpec, RetryAfter, error_table};
use super::{
    auth::AuthError,
    public::{clip, public},
};
use crate::{
    fleet::ModelError,
    serve::{FailureKind, RouteError, ServeError, admission::Rejection, operation::OperationRejection},
};

/// Everything that can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The bytes are not a request.
    #[error("{}", malformed(*status))]
    Malformed {
        /// 400, or what was too long.
        status: StatusCode,
    },
    /// What came is HTTP, and should have been TLS.
    #[error("this port takes HTTPS; use an address that begins with https://")]
    NotTls,
    /// The header came too slowly.
    #[error("the request's header did not arrive in time")]
    HeaderTimeout,
    /// All places are taken by connections on which something is being answered.
    #[error("the server has as many connections as it can take; try again later")]
    TooManyConnections,
    /// The request is addressed to another host.
    #[error(
        "this server answers requests to localhost, not to `{0}`; its setting `server.allowed_hosts` can allow \
         other names"
    )]
    ForeignHost(String),
    /// The request was made by a web page of another site.
    #[error(
        "web pages of `{0}` may not use this server; its setting `server.allowed_origins` can allow them"
    )]
    ForeignOrigin(String),
    /// No such path.
    #[error("unknown path {0}; see /v1/models, /v1/chat/completions and /v1/completions")]
    UnknownPath(String),
    /// The path is not text.
    #[error("the path is not UTF-8")]
    BadPath,
    /// The path knows other methods.
    #[error("{0} is not allowed here")]
    Method(axum::http::Method),
    /// The body is announced as something other than JSON.
    #[error("the body must be JSON, sent with `Content-Type: application/json`, not `{0}`")]
    MediaType(String),
    /// The body is compressed.
    #[error("the body's encoding `{0}` is not supported; send it without `Content-Encoding`")]
    ContentEncoding(String),
    /// The body is in another character set.
    #[error("the body's character set `{0}` is not supported; send UTF-8")]
    Charset(String),
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
    #[error("the body did not arrive within {} s", .0.as_secs_f32())]
    BodyTimeout(Duration),
    /// The body is not text.
    #[error("the body is not UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// The body is not JSON.
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
    /// A field that this kind of request does not have.
    #[error("`{param}` is not a field of this request; the server's documentation lists those that are")]
    Unknown {
        /// The field's name.
        param: String,
    },
    /// Bodies and waiting requests take all the memory that they may.
    #[error("the requests that wait take all the memory set aside for them; try again later")]
    Memory,
    /// The client does not read its answer.
    #[error(
        "the answer was ended because its client took next to nothing of it for {} s; read faster, or ask for less",
        .0.as_secs_f32()
    )]
    SlowConsumer(Duration),
    /// Not from somebody who may ask for it.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Not loaded or unloaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Not served, or not to the end.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The operating system's random source failed.
    #[error("the operating system's source of random numbers failed")]
    Random(#[from] getrandom::Error),
    /// A defect in the gateway.
    #[error("internal error in the gateway; its log says more")]
    Internal,
}

/// Bytes of a message. What a client sent may be in it.
const MAX_MESSAGE: usize = 1000;
const MAX_PARAM: usize = 200;

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        ServeError::from(error).into()
    }
}

impl ApiError {
    /// Its row of the table.
    fn spec(&self) -> ErrorSpec {
        match self {
            Self::Malformed { status } => of_malformed(*status),
            Self::NotTls => spec::HTTPS_NEEDED,
            Self::HeaderTimeout => spec::HEADER_TIMEOUT,
            Self::TooManyConnections => spec::TOO_MANY_CONNECTIONS,
            Self::ForeignHost(_) => spec::HOST_NOT_ALLOWED,
            Self::ForeignOrigin(_) => spec::ORIGIN_NOT_ALLOWED,
            Self::BadPath => spec::INVALID_PATH,
            Self::UnknownPath(_) => spec::UNKNOWN_URL,
            Self::Method(_) => spec::METHOD_NOT_ALLOWED,
            Self::MediaType(_) => spec::UNSUPPORTED_MEDIA_TYPE,
            Self::ContentEncoding(_) => spec::UNSUPPORTED_ENCODING,
            Self::Charset(_) => spec::UNSUPPORTED_CHARSET,
            Self::BodyTooLarge { .. } => spec::BODY_TOO_LARGE,
            Self::BodyBroken(_) => spec::BODY_BROKEN,
            Self::BodyTimeout(_) => spec::BODY_TIMEOUT,
            Self::NotUtf8(_) | Self::Json(_) => spec::INVALID_JSON,
            Self::Field { .. } => spec::INVALID_VALUE,
            Self::Unsupported { .. } => spec::UNSUPPORTED_PARAMETER,
            Self::Unknown { .. } => spec::UNKNOWN_PARAMETER,
            Self::Memory => spec::OUT_OF_MEMORY_BUDGET,
            Self::SlowConsumer(_) => spec::SLOW_CONSUMER,
            Self::Auth(AuthError::NoApiKey) => spec::MISSING_API_KEY,
            Self::Auth(AuthError::WrongApiKey) => spec::INVALID_API_KEY,
            Self::Auth(AuthError::Disabled) => spec::ADMIN_DISABLED,
            Self::Auth(AuthError::NoKey) => spec::MISSING_ADMIN_KEY,
            Self::Auth(AuthError::WrongKey) => spec::INVALID_ADMIN_KEY,
            Self::Model(error) => of_model(error),
            Self::Serve(error) => of_serve(error),
            Self::Random(_) | Self::Internal => spec::INTERNAL_ERROR,
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Field { param, .. } => param.as_deref(),
            Self::Unsupported { param, .. } | Self::Unknown { param } => Some(param),
            Self::Serve(ServeError::Unroutable(
                RouteError::UnknownModel { .. } | RouteError::NotNamed { .. },
            )) => Some("model"),
            Self::Serve(ServeError::Failed(failure)) => failure.param.as_deref(),
            _ => None,
        }
    }

    /// What the client is told.
    pub(super) fn report(&self) -> ErrorReport {
        let ErrorSpec { kind, code, .. } = self.spec();
        let message = match self {
            // A worker wrote it, about itself.
            Self::Serve(ServeError::Failed(failure)) if kind != ErrorKind::InvalidRequest => {
                public(&failure.message)
            }
            Self::Serve(ServeError::NoModel(error)) => public(&error.to_string()),
            other => clip(other.to_string(), MAX_MESSAGE),
        };
        let param = self.param().map(|param| clip(param.to_owned(), MAX_PARAM));
        let full = match self {
            Self::Serve(ServeError::Rejected(rejection)) => Full::of(rejection),
            _ => None,
        };
        let retry_after = self.retry_after();
        ErrorReport { kind, code: Some(code), message, param, request_id: None, retry_after, full }
    }

    /// When the same request may succeed.
    fn retry_after(&self) -> Option<Duration> {
        match (self.spec().retry_after, self) {
            (RetryAfter::Fixed(after), _) => Some(after),
            (RetryAfter::Computed, Self::Serve(ServeError::Rejected(rejection))) => rejection.retry_after(),
            // Nobody knows when a model that others wait for is loaded.
            (RetryAfter::Computed, _) => Some(spec::RETRY_BUSY),
            (RetryAfter::Never, _) => None,
        }
    }

    /// The status of a response that tells it.
    pub(super) fn status(&self) -> StatusCode {
        self.spec().status
    }
}

impl IntoResponse for ApiError {
    /// Without a body: the outermost layer knows the request's id and dialect, and writes it from the report.
    fn into_response(self) -> Response {
        let status = self.status();
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (status, json).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after() {
            // Whole seconds, so that nobody comes too early.
            headers
                .insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
            headers.insert("retry-after-ms", HeaderValue::from(after.as_millis() as u64));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::ContentEncoding(_)) {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        response.extensions_mut().insert(self.report());
        response
    }
}

fn of_malformed(status: StatusCode) -> ErrorSpec {
    match status {
        StatusCode::URI_TOO_LONG => spec::PATH_TOO_LONG,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => spec::HEADER_TOO_LARGE,
        _ => spec::MALFORMED,
    }
}

fn of_serve(error: &ServeError) -> ErrorSpec {
    match error {
        ServeError::Rejected(Rejection::QueueFull { .. }) => spec::QUEUE_FULL,
        ServeError::Rejected(Rejection::WaitedTooLong { .. }) => spec::QUEUE_TIMEOUT,
        ServeError::Rejected(Rejection::RateLimited(_)) => spec::RATE_LIMITED,
        ServeError::Rejected(Rejection::DeadlinePassed) | ServeError::DeadlinePassed => {
            spec::DEADLINE_EXCEEDED
        }
        ServeError::Rejected(Rejection::ShuttingDown) => spec::SHUTTING_DOWN,
        ServeError::OperationRejected(OperationRejection::QueueFull { .. }) => spec::QUEUE_FULL,
        ServeError::OperationRejected(OperationRejection::WaitedTooLong { .. }) => spec::QUEUE_TIMEOUT,
        ServeError::Unroutable(error) => of_route(error),
        ServeError::NoModel(error) => of_model(error),
        ServeError::Failed(failure) => of_failure(failure.kind),
        ServeError::Internal => spec::INTERNAL_ERROR,
    }
}

fn of_route(error: &RouteError) -> ErrorSpec {
    match error {
        RouteError::UnknownModel { .. } | RouteError::NoBase { .. } => spec::MODEL_NOT_FOUND,
        RouteError::Unloading { .. } => spec::MODEL_LEAVING,
        RouteError::NotNamed { .. } => spec::INVALID_VALUE,
        RouteError::NoWorker { .. } => spec::NO_WORKER,
    }
}

fn of_failure(kind: FailureKind) -> ErrorSpec {
    match kind {
        FailureKind::InvalidRequest => spec::INVALID_VALUE,
        FailureKind::ContextLengthExceeded => spec::CONTEXT_LENGTH_EXCEEDED,
        FailureKind::WorkerLost => spec::WORKER_LOST,
        FailureKind::Overloaded => spec::OVERLOADED,
        // Of a draft model or an adapter; what is wrong with a model that is served is found when it is loaded.
        FailureKind::UnknownModel => spec::MODEL_NOT_FOUND,
        FailureKind::DamagedModel => spec::MODEL_DAMAGED,
        FailureKind::TooLarge => spec::MODEL_TOO_LARGE,
        FailureKind::Internal => spec::WORKER_ERROR,
    }
}

fn of_model(error: &ModelError) -> ErrorSpec {
    match error {
        ModelError::Failed { failure, .. } => match failure.kind {
            FailureKind::UnknownModel => spec::MODEL_NOT_FOUND,
            FailureKind::DamagedModel => spec::MODEL_DAMAGED,
            FailureKind::TooLarge => spec::MODEL_TOO_LARGE,
            _ => spec::LOAD_FAILED,
        },
        ModelError::TooMany { .. } => spec::TOO_MANY_MODELS,
        ModelError::OtherWorkers { .. } => spec::ALREADY_LOADED,
        ModelError::Unloading(_) | ModelError::Unloaded(_) => spec::MODEL_UNLOADING,
        ModelError::NotLoaded(error) => of_route(error),
        ModelError::UnknownWorker { .. } => spec::WORKER_NOT_FOUND,
        ModelError::Restarting(_) => spec::RESTART_IN_PROGRESS,
        ModelError::NotRestarted { .. } => spec::RESTART_FAILED,
        ModelError::NotRestartedYet { .. } => spec::RESTART_TIMEOUT,
        ModelError::NoRoom { .. } | ModelError::NoMemoryYet { .. } => spec::NO_ROOM,
        ModelError::StillUnloading { .. } => spec::STILL_UNLOADING,
        ModelError::TooLarge { .. } => spec::MODEL_TOO_LARGE,
        ModelError::NoMemory { .. } => spec::INSUFFICIENT_MEMORY,
        ModelError::Crowded(_) => spec::QUEUE_FULL,
        ModelError::StoreUnreadable => spec::STORE_UNREADABLE,
        ModelError::ShuttingDown => spec::SHUTTING_DOWN,
    }
}

/// What went wrong where HTTP itself was not kept to.
fn malformed(status: StatusCode) -> &'static str {
    match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the request's header is too large",
        StatusCode::URI_TOO_LONG => "the request's path is too long",
        _ => "the request is not valid HTTP/1.1",
    }
}

#[cfg(test)]
mod tests;
