//! Reads a request's body, within its limit.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::error::ApiError;

/// For the whole body. A client that dribbles would hold memory for nothing.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client that is still writing does not see an answer when the connection is closed under it. So
/// up to this much of a body that is too large is read and thrown away first.
const DISCARD_BYTES: usize = 256 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request for JSON.
pub(super) async fn read(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let (parts, mut body) = request.into_parts();
    check_media_type(&parts.headers)?;
    if content_length(&parts.headers).is_some_and(|length| length > limit as u64) {
        // Who waits for 100-continue has not begun to write.
        if !parts.headers.contains_key(header::EXPECT) {
            discard(body).await;
        }
        return Err(ApiError::BodyTooLarge { limit });
    }
    let read = timeout(TIMEOUT, read_within(&mut body, limit));
    match read.await {
        Err(_elapsed) => Err(ApiError::BodyTimeout(TIMEOUT)),
        Ok(Err(error @ ApiError::BodyTooLarge { .. })) => {
            discard(body).await;
            Err(error)
        }
        Ok(read) => read,
    }
}

async fn read_within(body: &mut Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut chunks = std::mem::take(body).into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| ApiError::BodyBroken(e.to_string()))?;
        if bytes.len() + chunk.len() > limit {
            *body = Body::from_stream(chunks);
            return Err(ApiError::BodyTooLarge { limit });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Reads until the end, a limit or an error; none of them changes the answer.
async fn discard(body: Body) {
    let drain = async {
        let mut left = DISCARD_BYTES;
        let mut chunks = body.into_data_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(DISCARD_TIMEOUT, drain).await;
}

/// A missing type is taken as JSON: the body will show.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        Ok(())
    } else {
        Err(ApiError::MediaType(text.into_owned()))
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
