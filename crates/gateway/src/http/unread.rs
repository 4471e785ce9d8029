//! What becomes of a body that nobody read.
//!
//! An answer may be ready before the request's body was read. The next request on the connection would begin after
//! that body. So a short one is read and thrown away, and with a long one the answer says that the connection ends.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;

/// Most bytes that are read for nothing to keep a connection.
const DRAIN_BYTES: usize = 256 << 10;
/// Longest time for them. A client that has not sent them by then may be waiting for the answer.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Settles what is left of the request's body once its answer is there.
pub(super) async fn settle(request: Request, next: Next) -> Response {
    let expects = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let left = Left(Arc::new(Mutex::new(State { body: Some(body), was_read: false })));
    let response = next.run(Request::from_parts(parts, Body::new(Shared(left.clone())))).await;
    let State { body, was_read } = left.take();
    let Some(body) = body.filter(|body| !body.is_end_stream()) else { return response };
    // A client that waits to be asked for its body has not sent it, and one whose body was late is not waited for.
    let permanent = (expects && !was_read) || response.status() == StatusCode::REQUEST_TIMEOUT;
    if permanent || !drain(body).await { close(response) } else { response }
}

/// The answer is the connection's last.
pub(super) fn close(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Reads a body to its end. False if it is too long or too slow.
async fn drain(body: Body) -> bool {
    if body.size_hint().lower() > DRAIN_BYTES as u64 {
        return false;
    }
    let read = async {
        let mut left = DRAIN_BYTES;
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk) = chunk else { return false };
            let Some(rest) = left.checked_sub(chunk.len()) else { return false };
            left = rest;
        }
        true
    };
    timeout(DRAIN_TIME, read).await.unwrap_or(false)
}

struct State {
    /// `None` once it has ended or failed.
    body: Option<Body>,
    was_read: bool,
}

/// A body that can be taken back.
#[derive(Clone)]
struct Left(Arc<Mutex<State>>);

impl Left {
    fn take(&self) -> State {
        let empty = State { body: None, was_read: true };
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), empty)
    }
}

/// What the handler reads.
struct Shared(Left);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.was_read = true;
        let Some(body) = &mut state.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            state.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}
