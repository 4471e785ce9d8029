//! Everything that can go wrong with a request, in OpenAI's error JSON.

mod table;

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::message::Failure;
use serde::Serialize;

use self::table::Row;
use super::admin::Refusal;
use crate::{admission::Rejection, models::ModelError, router::RouteError};

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
    /// Not from an administrator.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not loaded or unloaded.
    #[error(transparent)]
    Model(#[from] ModelError),
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

impl ApiError {
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
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
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
mod tests;
