//! A stream as server-sent events.
//!
//! ```text
//! Waiting ─► Running ─┬─ Finished ─► last piece, usage if asked for, [DONE] ─► Ended
//!    └────────────────┴─ Failed ───► one error event ────────────────────────► Ended
//! ```
//!
//! The body is polled only when the connection can take more, so reading is what gives credit back. While there is
//! nothing to send, a comment now and then shows clients and proxies that the stream is alive.

use std::{
    convert::Infallible,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use protocol::message::{FinishReason, StreamEventKind, Usage};
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep};
use tracing::{Span, error};

use super::{
    error::ApiError,
    generation::{Head, Object, Opened, Opening, Shape, UsageJson},
    request_id::RequestName,
};

/// What is sent, and when.
pub(super) struct Settings {
    pub(super) include_usage: bool,
    /// Longest silence.
    pub(super) keepalive: Duration,
    /// For the error event.
    pub(super) name: Option<RequestName>,
}

/// Where events come from. It owns stream and permit: when the client goes, both are dropped, which cancels the one
/// and frees the other.
pub(super) enum Source {
    /// The request waits, or the worker prepares it.
    Opening(Opening),
    /// The worker has accepted it.
    Open(Opened),
    /// The terminal event was written.
    Ended,
}

/// The response of a stream.
pub(super) fn respond<S: Shape>(source: Source, settings: Settings) -> Response {
    let mut events = Events::<S> {
        source,
        timer: Box::pin(sleep(settings.keepalive)),
        settings,
        ready: Vec::new(),
        span: Span::current(),
        shape: PhantomData,
    };
    match &events.source {
        // It has been silent for long enough.
        Source::Opening(_) => events.ready.extend_from_slice(COMMENT),
        Source::Open(opened) => write_opening::<S>(&mut events.ready, &opened.head, &events.settings),
        Source::Ended => {}
    }
    let headers = [
        // Some clients take text without a character set for ISO-8859-1.
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies must not wait for more.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// Clients skip it.
const COMMENT: &[u8] = b": keep-alive\n\n";

struct Events<S> {
    source: Source,
    settings: Settings,
    /// Runs since something was sent.
    timer: Pin<Box<Sleep>>,
    /// Bytes to send before anything else.
    ready: Vec<u8>,
    /// Of the request.
    span: Span,
    shape: PhantomData<S>,
}

/// Events that are ready together go out together, up to about this size.
const PIECE_BYTES: usize = 16 << 10;

impl<S: Shape> futures_util::Stream for Events<S> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let span = this.span.clone();
        let _entered = span.enter();
        let mut out = std::mem::take(&mut this.ready);
        while out.len() < PIECE_BYTES {
            match this.poll_event(cx, &mut out) {
                Poll::Ready(()) if matches!(this.source, Source::Ended) => break,
                Poll::Ready(()) => {}
                Poll::Pending if out.is_empty() && this.timer.as_mut().poll(cx).is_ready() => {
                    out.extend_from_slice(COMMENT);
                    break;
                }
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        this.timer.as_mut().reset(Instant::now() + this.settings.keepalive);
        Poll::Ready((!out.is_empty()).then(|| Ok(out.into())))
    }
}

impl<S: Shape> Events<S> {
    /// Writes the next event, or goes on to the next state.
    fn poll_event(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<()> {
        match &mut self.source {
            Source::Opening(opening) => match opening.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(opened)) => {
                    write_opening::<S>(out, &opened.head, &self.settings);
                    self.source = Source::Open(opened);
                }
                Poll::Ready(Err(error)) => self.fail(out, &error),
            },
            Source::Open(opened) => match opened.events.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => self.write(out, event),
            },
            Source::Ended => {}
        }
        Poll::Ready(())
    }

    fn write(&mut self, out: &mut Vec<u8>, event: Option<StreamEventKind>) {
        let Source::Open(Opened { head, .. }) = &self.source else { return };
        match event {
            // Tokens whose text is not complete yet.
            Some(StreamEventKind::Delta(chunk)) if chunk.text.is_empty() => {}
            Some(StreamEventKind::Delta(chunk)) => {
                write_choice(out, head, &self.settings, S::piece(&chunk.text, None));
            }
            Some(StreamEventKind::Finished { reason, usage }) => {
                finish::<S>(out, head, &self.settings, reason, usage);
                self.source = Source::Ended;
            }
            Some(StreamEventKind::Failed(failure)) => self.fail(out, &ApiError::from(failure)),
            Some(StreamEventKind::Prepared { .. }) | None => self.fail(out, &ApiError::Internal),
        }
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        self.source = Source::Ended;
        let body = error.body();
        match &self.settings.name {
            Some(RequestName(id)) => write_data(out, &body.with_request_id(id)),
            None => write_data(out, &body),
        }
    }
}

fn finish<S: Shape>(out: &mut Vec<u8>, head: &Head, settings: &Settings, reason: FinishReason, usage: Usage) {
    write_choice(out, head, settings, S::piece("", Some(reason)));
    if settings.include_usage {
        let usage = Some(Some(UsageJson::from(usage)));
        write_data(out, &Object::<()> { head, choices: &[], usage });
    }
    out.extend_from_slice(b"data: [DONE]\n\n");
}

fn write_opening<S: Shape>(out: &mut Vec<u8>, head: &Head, settings: &Settings) {
    if let Some(opening) = S::opening() {
        write_choice(out, head, settings, opening);
    }
}

fn write_choice(out: &mut Vec<u8>, head: &Head, settings: &Settings, choice: impl Serialize) {
    let usage = settings.include_usage.then_some(None);
    write_data(out, &Object { head, choices: &[choice], usage });
}

fn write_data(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    // Text, numbers and fixed keys: JSON can express them, and a Vec takes them.
    if let Err(error) = serde_json::to_writer(&mut *out, value) {
        error!(%error, "an event could not be written");
    }
    out.extend_from_slice(b"\n\n");
}
