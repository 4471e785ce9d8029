//! Answers to requests that reach no route.

use axum::{
    extract::Request,
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use crate::http::{
    error::ApiError,
    request_id,
    router::{PROBES, WRITE_ERROR},
};

/// Whether a connection beyond the limit may still ask for this.
pub(super) fn is_health_check<B>(request: &Request<B>) -> bool {
    PROBES.contains(&request.uri().path())
}

/// The answer to everything else on such a connection.
pub(super) async fn no_place(headers: &HeaderMap) -> Response {
    let id = request_id::of(headers);
    request_id::finish(ApiError::TooManyConnections.into_response(), &id, WRITE_ERROR).await
}

/// A whole response, for a connection on which no request began.
pub(super) fn bytes(error: &ApiError) -> Vec<u8> {
    let status = error.status();
    let id = request_id::fresh();
    let body = WRITE_ERROR(&error.report().with_request_id(&id));
    let reason = status.canonical_reason().unwrap_or_default();
    let (code, length) = (status.as_u16(), body.len());
    let head = format!(
        "HTTP/1.1 {code} {reason}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         {name}: {id}\r\nconnection: close\r\n\r\n",
        name = request_id::HEADER
    );
    [head.into_bytes(), body].concat()
}
