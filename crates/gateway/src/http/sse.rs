//! A stream as server-sent events.
//!
//! ```text
//! Opening ─► Running ─┬─ Finished ─► last piece, usage if asked for, [DONE] ─► Ended
//!                     └─ Failed ───► one error event ────────────────────────► Ended
//! ```
//!
//! The body is polled only when the connection can take more, so reading is what gives credit back.

use std::{
    convert::Infallible,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use protocol::message::{FinishReason, StreamEventKind, Usage};
use serde::Serialize;
use tracing::error;

use super::{
    error::ApiError,
    generation::{Head, Object, Shape, UsageJson},
};
use crate::{admission::Permit, streams::Stream};

/// The response of an admitted stream. Its body owns stream and permit: when the client goes, both
/// are dropped, which cancels the one and frees the other.
pub(super) fn respond<S: Shape>(events: Stream, permit: Permit, head: Head, include_usage: bool) -> Response {
    let state = State::Opening;
    let events = Events::<S> { events, _permit: permit, head, include_usage, state, shape: PhantomData };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies must not wait for more.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

struct Events<S> {
    events: Stream,
    _permit: Permit,
    head: Head,
    include_usage: bool,
    state: State,
    shape: PhantomData<S>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was written.
    Opening,
    /// Pieces are written.
    Running,
    /// The terminal event was written.
    Ended,
}

/// Events that are ready together go out together, up to about this size.
const PIECE_BYTES: usize = 16 << 10;

impl<S: Shape> futures_util::Stream for Events<S> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut out = Vec::new();
        if this.state == State::Opening {
            this.state = State::Running;
            if let Some(opening) = S::opening() {
                this.write_choice(&mut out, opening);
            }
        }
        while this.state == State::Running && out.len() < PIECE_BYTES {
            match this.events.poll_next(cx) {
                Poll::Ready(event) => this.write(&mut out, event),
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready((!out.is_empty()).then(|| Ok(out.into())))
    }
}

impl<S: Shape> Events<S> {
    fn write(&mut self, out: &mut Vec<u8>, event: Option<StreamEventKind>) {
        match event {
            // Tokens whose text is not complete yet.
            Some(StreamEventKind::Chunk(chunk)) if chunk.text.is_empty() => {}
            Some(StreamEventKind::Chunk(chunk)) => self.write_choice(out, S::piece(&chunk.text, None)),
            Some(StreamEventKind::Finished { reason, usage }) => self.finish(out, reason, usage),
            Some(StreamEventKind::Failed(failure)) => self.fail(out, ApiError::from(failure)),
            Some(StreamEventKind::Admitted { .. }) | None => self.fail(out, ApiError::Internal),
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>, reason: FinishReason, usage: Usage) {
        self.state = State::Ended;
        self.write_choice(out, S::piece("", Some(reason)));
        if self.include_usage {
            let usage = Some(Some(UsageJson::from(usage)));
            write_data(out, &Object::<()> { head: &self.head, choices: &[], usage });
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: ApiError) {
        self.state = State::Ended;
        write_data(out, &error.body());
    }

    fn write_choice(&self, out: &mut Vec<u8>, choice: impl Serialize) {
        let usage = self.include_usage.then_some(None);
        write_data(out, &Object { head: &self.head, choices: &[choice], usage });
    }
}

fn write_data(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    // Text, numbers and fixed keys: JSON can express them, and a Vec takes them.
    if let Err(error) = serde_json::to_writer(&mut *out, value) {
        error!(%error, "an event could not be written");
    }
    out.extend_from_slice(b"\n\n");
}
