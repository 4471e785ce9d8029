//! Reads a request's body, within its limits.

use axum::{
    body::Bytes,
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{app::App, budget::Charge, error::ApiError};

/// A body, read to its end, and the memory set aside for it.
pub(super) struct FullBody {
    pub(super) bytes: Bytes,
    pub(super) charge: Charge,
}

/// The body of a request for JSON, of at most `limit` bytes.
pub(super) async fn read(app: &App, request: Request, limit: usize) -> Result<FullBody, ApiError> {
    let (parts, body) = request.into_parts();
    check_headers(&parts.headers)?;
    if content_length(&parts.headers).is_some_and(|length| length > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    let read = async {
        let mut charge = app.budget.charge();
        let mut chunks = body.into_data_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| ApiError::BodyBroken(e.to_string()))?;
            let length = bytes.len() + chunk.len();
            if length > limit {
                return Err(ApiError::BodyTooLarge { limit });
            }
            charge.resize(length)?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(FullBody { bytes: bytes.freeze(), charge })
    };
    let longest = app.body_timeout();
    timeout(longest, read).await.unwrap_or(Err(ApiError::BodyTimeout(longest)))
}

fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let encoding = String::from_utf8_lossy(value.as_bytes());
        if !encoding.trim().eq_ignore_ascii_case("identity") && !encoding.trim().is_empty() {
            return Err(ApiError::ContentEncoding(encoding.into_owned()));
        }
    }
    // A missing type is taken as JSON: the body will show. Web pages can't send one without being asked for an origin.
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_json = essence.starts_with("application/") && essence.ends_with("+json");
    if essence != "application/json" && !is_json {
        return Err(ApiError::MediaType(text.into_owned()));
    }
    match parts.filter_map(|parameter| parameter.split_once('=')).find(|(name, _)| is_charset(name)) {
        Some((_, charset)) if !is_utf8(charset) => Err(ApiError::Charset(charset.to_owned())),
        _ => Ok(()),
    }
}

fn is_charset(name: &str) -> bool {
    name.trim().eq_ignore_ascii_case("charset")
}

/// ASCII is UTF-8, too.
fn is_utf8(charset: &str) -> bool {
    let name = charset.trim().trim_matches('"').to_ascii_lowercase();
    matches!(name.as_str(), "utf-8" | "utf8" | "us-ascii" | "ascii")
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
