//! Everything that can go wrong with a request, in OpenAI's error JSON.

mod public;
mod table;

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::message::Failure;
use serde::Serialize;

pub(super) use self::public::public;
use self::{public::clip, table::Row};
use super::{admin::Refusal, request_id};
use crate::{
    fleet::{ModelError, RouteError},
    serve::admission::Rejection,
};

/// Everything that can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The bytes are not a request.
    #[error("{}", malformed(*status))]
    Malformed {
        /// 400, or what was too long.
        status: StatusCode,
    },
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
    /// The body is announced as something else than JSON.
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
    /// A field that nobody here knows.
    #[error("`{param}` is not a field of this request; the server's documentation lists those that are")]
    Unknown {
        /// The field's name.
        param: String,
    },
    /// Bodies and waiting requests take all the memory that they may.
    #[error("the requests that wait take all the memory set aside for them; try again later")]
    Memory,
    /// Not let in.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nowhere to go.
    #[error(transparent)]
    Unroutable(#[from] RouteError),
    /// Not from an administrator.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not loaded or unloaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The worker could not do it.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// The operating system gave no random numbers.
    #[error("the operating system's source of random numbers failed")]
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

impl ApiError {
    fn param(&self) -> Option<&str> {
        match self {
            Self::Field { param, .. } => param.as_deref(),
            Self::Unsupported { param, .. } | Self::Unknown { param } => Some(param),
            Self::Unroutable(RouteError::UnknownModel { .. }) => Some("model"),
            Self::Failed(failure) => failure.param.as_deref(),
            _ => None,
        }
    }

    /// `{"error": {…}}`, as in a response's body and in an error event.
    pub fn body(&self) -> ErrorBody {
        let Row { kind, code, .. } = self.row();
        let message = match self {
            // Its words are a worker's, about itself.
            Self::Failed(failure) if kind != table::INVALID => public(&failure.message),
            other => clip(other.to_string(), MAX_MESSAGE),
        };
        let param = self.param().map(|param| clip(param.to_owned(), MAX_PARAM));
        ErrorBody { error: ErrorJson { message, kind, param, code, request_id: None } }
    }
}

/// Bytes of a message. What a client sent may be in it.
const MAX_MESSAGE: usize = 1000;
const MAX_PARAM: usize = 200;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Row { status, retry_after, .. } = self.row();
        let body = self.body();
        let mut response = (status, Json(&body)).into_response();
        let headers = response.headers_mut();
        if let Some(after) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
            headers.insert("retry-after-ms", HeaderValue::from(after.as_millis() as u64));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::ContentEncoding(_)) {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        // The request's id is put into the body where it is known.
        response.extensions_mut().insert(body);
        response
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

/// A whole response, for a connection on which no request began.
pub(super) fn wire(error: &ApiError) -> Vec<u8> {
    let Row { status, .. } = error.row();
    let id = request_id::fresh();
    let body = error.body().with_request_id(&id);
    // Strings and nulls: JSON can express them.
    let body = serde_json::to_string(&body).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    let (code, length) = (status.as_u16(), body.len());
    format!(
        "HTTP/1.1 {code} {reason}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         {name}: {id}\r\nconnection: close\r\n\r\n{body}",
        name = request_id::HEADER
    )
    .into_bytes()
}

/// OpenAI's error object.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    error: ErrorJson,
}

impl ErrorBody {
    /// For an error that another layer answered with `status` and perhaps some words.
    pub(super) fn plain(status: StatusCode, words: &str) -> Self {
        let kind = if status.is_server_error() { table::SERVER } else { table::INVALID };
        let reason = || status.canonical_reason().unwrap_or("error").to_owned();
        let message = if words.is_empty() { reason() } else { public(words) };
        Self { error: ErrorJson { message, kind, param: None, code: None, request_id: None } }
    }

    /// The same, saying of which request it is.
    pub(super) fn with_request_id(mut self, id: &str) -> Self {
        self.error.request_id = Some(id.to_owned());
        self
    }
}

#[derive(Clone, Debug, Serialize)]
struct ErrorJson {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

#[cfg(test)]
mod tests;
