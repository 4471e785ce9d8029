//! Every error that a client can be told: status, code, and when.

use std::time::Duration;

use axum::http::StatusCode;

/// One row of the table of errors: what a client is told, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorSpec {
    /// The response's status. An error after the header has none, and is told as an event.
    pub status: StatusCode,
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// What happened, for programs.
    pub code: &'static str,
    /// After how long trying again makes sense.
    pub retry_after: RetryAfter,
    /// When it happens, for the documentation.
    pub when: &'static str,
}

/// After how long trying again makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryAfter {
    /// The same request would fail again.
    Never,
    /// After this time.
    Fixed(Duration),
    /// As long as it will take for a place to come free, at the rate at which places do; or for a rate to allow it.
    Computed,
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The request's.
    InvalidRequest,
    /// Neither's: the server is at its limit.
    RateLimit,
    /// The server's.
    Server,
}

impl ErrorKind {
    /// The name that the documentation and OpenAI's dialect use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request_error",
            Self::RateLimit => "rate_limit_error",
            Self::Server => "server_error",
        }
    }
}

/// Memory comes free whenever a request has been read, or a stream begins.
pub(super) const RETRY_BUSY: Duration = Duration::from_secs(1);
/// A worker's restart takes a back-off and a load.
const RETRY_WORKER: Duration = Duration::from_secs(2);

const NEVER: RetryAfter = RetryAfter::Never;
const BUSY: RetryAfter = RetryAfter::Fixed(RETRY_BUSY);
const PLACE: RetryAfter = RetryAfter::Computed;
const WORKER: RetryAfter = RetryAfter::Fixed(RETRY_WORKER);

/// Defines the rows, and lists all of them.
macro_rules! specs {
    ($($name:ident = $status:ident $kind:ident $code:literal $retry:ident, $when:literal;)*) => {
        $(
            pub(super) const $name: ErrorSpec = ErrorSpec {
                status: StatusCode::$status,
                kind: ErrorKind::$kind,
                code: $code,
                retry_after: $retry,
                when: $when,
            };
        )*

        /// Every error that a client can be told, by status.
        pub fn error_table() -> &'static [ErrorSpec] {
            &[$($name,)*]
        }
    };
}

specs! {
    MALFORMED = BAD_REQUEST InvalidRequest "malformed_request" NEVER,
        "the bytes are not HTTP/1.1";
    HTTPS_NEEDED = BAD_REQUEST InvalidRequest "https_needed" NEVER,
        "HTTP was sent to a port that takes HTTPS";
    INVALID_PATH = BAD_REQUEST InvalidRequest "invalid_path" NEVER,
        "the path is not UTF-8";
    BODY_BROKEN = BAD_REQUEST InvalidRequest "body_broken" NEVER,
        "the body could not be read to its end";
    INVALID_JSON = BAD_REQUEST InvalidRequest "invalid_json" NEVER,
        "the body is not JSON or not UTF-8";
    INVALID_VALUE = BAD_REQUEST InvalidRequest "invalid_value" NEVER,
        "a field is missing, of the wrong type or out of range";
    UNSUPPORTED_PARAMETER = BAD_REQUEST InvalidRequest "unsupported_parameter" NEVER,
        "a field asks for something that this server can't do";
    UNKNOWN_PARAMETER = BAD_REQUEST InvalidRequest "unknown_parameter" NEVER,
        "no such field";
    CONTEXT_LENGTH_EXCEEDED = BAD_REQUEST InvalidRequest "context_length_exceeded" NEVER,
        "prompt and answer do not fit the model's context";
    MISSING_API_KEY = UNAUTHORIZED InvalidRequest "missing_api_key" NEVER,
        "the server has API keys, and no key was sent";
    INVALID_API_KEY = UNAUTHORIZED InvalidRequest "invalid_api_key" NEVER,
        "the server has API keys, and another one was sent";
    MISSING_ADMIN_KEY = UNAUTHORIZED InvalidRequest "missing_admin_key" NEVER,
        "the request requires the admin key, and no key was sent";
    INVALID_ADMIN_KEY = UNAUTHORIZED InvalidRequest "invalid_admin_key" NEVER,
        "the request requires the admin key, and another one was sent";
    ADMIN_DISABLED = FORBIDDEN InvalidRequest "admin_disabled" NEVER,
        "the server has no admin key";
    HOST_NOT_ALLOWED = FORBIDDEN InvalidRequest "host_not_allowed" NEVER,
        "the request is addressed to a host that is not allowed";
    ORIGIN_NOT_ALLOWED = FORBIDDEN InvalidRequest "origin_not_allowed" NEVER,
        "a web page whose origin is not allowed sent the request";
    UNKNOWN_URL = NOT_FOUND InvalidRequest "unknown_url" NEVER,
        "no such path";
    MODEL_NOT_FOUND = NOT_FOUND InvalidRequest "model_not_found" NEVER,
        "the model is neither loaded nor, where models are loaded on demand, in the store; on a load, or as a draft \
         model, it is not in the store; or it is an adapter that is not stored, or whose base is not";
    WORKER_NOT_FOUND = NOT_FOUND InvalidRequest "worker_not_found" NEVER,
        "on a restart, there is no such worker; the message names those that there are";
    // It will not come back by waiting.
    MODEL_LEAVING = NOT_FOUND InvalidRequest "model_unloading" NEVER,
        "the model is being unloaded and takes no more requests";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED InvalidRequest "method_not_allowed" NEVER,
        "the path has other methods; `Allow` names them";
    HEADER_TIMEOUT = REQUEST_TIMEOUT InvalidRequest "header_timeout" NEVER,
        "the header took longer than `server.header_timeout_ms`";
    BODY_TIMEOUT = REQUEST_TIMEOUT InvalidRequest "body_timeout" NEVER,
        "the body took longer than `server.body_timeout_ms`";
    SLOW_CONSUMER = REQUEST_TIMEOUT InvalidRequest "slow_consumer" NEVER,
        "in a stream: its client took next to nothing of it for `server.slow_consumer_timeout_ms`";
    TOO_MANY_MODELS = CONFLICT InvalidRequest "too_many_models" NEVER,
        "`models.max_loaded` models are loaded; the message names them";
    INSUFFICIENT_MEMORY = CONFLICT InvalidRequest "insufficient_memory" NEVER,
        "on a load, the model does not fit into what other models leave of `memory.max_bytes`; the message says what it \
         needs and what they have";
    ALREADY_LOADED = CONFLICT InvalidRequest "already_loaded" NEVER,
        "the model is loaded with another number of workers";
    MODEL_UNLOADING = CONFLICT InvalidRequest "model_unloading" NEVER,
        "on a load, reload or restart, the model is being unloaded, or was unloaded meanwhile";
    RESTART_IN_PROGRESS = CONFLICT InvalidRequest "restart_in_progress" NEVER,
        "on a reload or restart, a worker is being restarted already";
    BODY_TOO_LARGE = PAYLOAD_TOO_LARGE InvalidRequest "body_too_large" NEVER,
        "the body is larger than `server.max_body_bytes`";
    PATH_TOO_LONG = URI_TOO_LONG InvalidRequest "malformed_request" NEVER,
        "the path is too long";
    UNSUPPORTED_MEDIA_TYPE = UNSUPPORTED_MEDIA_TYPE InvalidRequest "unsupported_media_type" NEVER,
        "the body is not JSON according to its `Content-Type`";
    UNSUPPORTED_ENCODING = UNSUPPORTED_MEDIA_TYPE InvalidRequest "unsupported_encoding" NEVER,
        "the body is compressed";
    UNSUPPORTED_CHARSET = UNSUPPORTED_MEDIA_TYPE InvalidRequest "unsupported_charset" NEVER,
        "the body is not UTF-8 according to its `Content-Type`";
    MODEL_DAMAGED = UNPROCESSABLE_ENTITY Server "model_damaged" NEVER,
        "a stored file of the model is damaged; the message says how to repair it";
    MODEL_TOO_LARGE = UNPROCESSABLE_ENTITY Server "model_too_large" NEVER,
        "the model does not fit into `memory.max_bytes`; the message says what it needs and what there is";
    QUEUE_FULL = TOO_MANY_REQUESTS RateLimit "queue_full" PLACE,
        "as many requests wait for the model, or for models to be loaded, as may wait, or requests of as many tokens; or \
         one that waited had to make room for one of a client with fewer";
    QUEUE_TIMEOUT = TOO_MANY_REQUESTS RateLimit "queue_timeout" PLACE,
        "the request waited for a place for too long";
    RATE_LIMITED = TOO_MANY_REQUESTS RateLimit "rate_limit_exceeded" PLACE,
        "the API key has used up its requests or tokens of this minute";
    OUT_OF_MEMORY_BUDGET = TOO_MANY_REQUESTS RateLimit "out_of_memory_budget" BUSY,
        "bodies and waiting requests take all of `server.request_memory_bytes`";
    HEADER_TOO_LARGE = REQUEST_HEADER_FIELDS_TOO_LARGE InvalidRequest "malformed_request" NEVER,
        "the header is too large";
    LOAD_FAILED = INTERNAL_SERVER_ERROR Server "load_failed" NEVER,
        "a model could not be loaded for another reason; the message is the worker's";
    RESTART_FAILED = INTERNAL_SERVER_ERROR Server "restart_failed" NEVER,
        "a worker was restarted, and its new process died before it served; the message says why";
    WORKER_ERROR = INTERNAL_SERVER_ERROR Server "worker_error" NEVER,
        "a defect in a worker, or a request that workers do not survive; the log says more";
    INTERNAL_ERROR = INTERNAL_SERVER_ERROR Server "internal_error" NEVER,
        "a defect in the gateway; the log says more";
    NO_WORKER = SERVICE_UNAVAILABLE Server "no_worker" WORKER,
        "no worker of the model was ready in time";
    NO_ROOM = SERVICE_UNAVAILABLE Server "no_room" WORKER,
        "`models.max_loaded` models are loaded, or they leave too little of `memory.max_bytes`, and none became idle \
         within `models.wait_timeout_ms`";
    STILL_UNLOADING = SERVICE_UNAVAILABLE Server "model_unloading" WORKER,
        "the model is being unloaded, to be loaded again for this request, and was not gone within `models.wait_timeout_ms`";
    STORE_UNREADABLE = SERVICE_UNAVAILABLE Server "store_unreadable" WORKER,
        "the model is not loaded, and the artifact store can't be read; the log says why";
    WORKER_LOST = SERVICE_UNAVAILABLE Server "worker_lost" WORKER,
        "the request's worker was lost, and none could go on with it in time";
    OVERLOADED = SERVICE_UNAVAILABLE Server "overloaded" WORKER,
        "the request's worker has too much to do";
    TOO_MANY_CONNECTIONS = SERVICE_UNAVAILABLE Server "too_many_connections" WORKER,
        "every connection that the server can take is busy; health checks are still answered";
    SHUTTING_DOWN = SERVICE_UNAVAILABLE Server "shutting_down" WORKER,
        "the gateway is stopping";
    DEADLINE_EXCEEDED = GATEWAY_TIMEOUT Server "deadline_exceeded" NEVER,
        "the time that the request names passed while it waited or ran";
    RESTART_TIMEOUT = GATEWAY_TIMEOUT Server "restart_timeout" NEVER,
        "a reload or restart took longer than its `timeout_ms`; it goes on";
}
