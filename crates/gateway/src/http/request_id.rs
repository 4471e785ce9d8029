//! `x-request-id`: the id of a request in its answer, its errors and the log.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, header, response::Parts},
    response::Response,
};

use super::error::{ErrorReport, ErrorWriter};

/// The header's name.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Most bytes of an id that a client chose.
const MAX: usize = 128;

/// A request's id, for those that answer it.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// The client's id, if it is short and printable; else a new one.
pub(super) fn of(headers: &HeaderMap) -> RequestId {
    let usable = |id: &&str| (1..=MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    let sent = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(usable);
    RequestId(sent.map_or_else(fresh, str::to_owned))
}

/// An id that nobody else has.
pub(super) fn fresh() -> String {
    // Without random numbers nothing can be answered but an error, whose id matters little.
    format!("req_{:016x}", getrandom::u64().unwrap_or_default())
}

/// Most bytes that are read of the text of another layer's error.
const MAX_TEXT: usize = 4 << 10;

/// Puts the id into the answer. Every error becomes JSON here, whichever layer it is from.
pub(super) async fn finish(
    mut response: Response,
    RequestId(id): &RequestId,
    write_error: ErrorWriter,
) -> Response {
    if let Some(report) = response.extensions_mut().remove::<ErrorReport>() {
        response = with_body(write_error(&report.with_request_id(id)), response.into_parts().0);
    } else if is_foreign_error(&response) {
        let (parts, body) = response.into_parts();
        let text = to_bytes(body, MAX_TEXT).await.unwrap_or_default();
        let report = ErrorReport::plain(parts.status, &String::from_utf8_lossy(&text));
        response = with_body(write_error(&report.with_request_id(id)), parts);
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

fn with_body(json: Vec<u8>, mut parts: Parts) -> Response {
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::from(json))
}

/// An error that is not JSON.
fn is_foreign_error(response: &Response) -> bool {
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let media_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    failed && !media_type.is_some_and(|it| it.starts_with(b"application/json"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::{http::StatusCode, response::IntoResponse};

    use super::*;

    fn with(id: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(HEADER, HeaderValue::from_bytes(id).unwrap())])
    }

    #[test]
    fn a_clients_id_is_kept_if_it_is_short_and_printable() {
        for id in ["a", "5f0c-11", "trace:1/2", &"x".repeat(128)] {
            assert_eq!(of(&with(id.as_bytes())).0, id);
        }
        for id in ["", "a b", "caf\u{e9}", "\t", &"x".repeat(129)] {
            assert!(of(&with(id.as_bytes())).0.starts_with("req_"), "{id:?}");
        }
        assert_ne!(of(&HeaderMap::new()).0, of(&HeaderMap::new()).0);
    }

    #[tokio::test]
    async fn errors_of_other_layers_become_json() {
        let write: ErrorWriter = |error| {
            let ErrorReport { message, request_id, .. } = error;
            serde_json::json!({"error": {"message": message, "request_id": request_id}}).to_string().into()
        };
        let response = (StatusCode::BAD_REQUEST, "Invalid URL").into_response();
        let response = finish(response, &RequestId("r1".into()), write).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-request-id"], "r1");
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["error"]["message"], "Invalid URL");
        assert_eq!(json["error"]["request_id"], "r1");
    }
}
