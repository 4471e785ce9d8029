//! The body of a streamed answer.
//!
//! ```text
//! Opening ─► Open ─┬─ Finish ─► last events ─────► Ended
//!    └─────────────┴─ error ──► one error event ─► Ended
//! ```
//!
//! The body is polled only when the connection can take more, so reading is what gives credit back. While there is
//! nothing to send, something that clients skip shows them and proxies now and then that the stream is alive.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::Span;

use super::{
    budget::Charge,
    dialect::{Answer, Dialect},
    error::ApiError,
    metrics::HttpMetrics,
    request_id::RequestId,
};
use crate::{
    serve::{Generation, OutputEvent, ServeError},
    trace,
};

/// A generation that the worker has accepted, and what writes its answer.
pub(super) struct Opened<A> {
    pub(super) generation: Generation,
    pub(super) answer: A,
    /// For the memory of the request.
    pub(super) _charge: Charge,
}

/// A generation on its way to that.
pub(super) type Opening<A> = Pin<Box<dyn Future<Output = Result<Opened<A>, ApiError>> + Send>>;

/// Where events come from. It owns the generation: when the client goes, that is dropped, which cancels it and frees
/// its place.
pub(super) enum Source<A> {
    /// The request waits, or the worker prepares it.
    Opening(Opening<A>),
    /// The worker has accepted it.
    Open(Box<Opened<A>>),
    /// The last event was written.
    Ended,
}

impl<A> Source<A> {
    /// Gives the worker `longest` to accept the prompt. After that the stream begins with a keep-alive, unless the
    /// dialect has none: then it goes on waiting.
    pub(super) async fn start<D: Dialect<Answer = A>>(
        mut opening: Opening<A>,
        longest: Duration,
    ) -> Result<Self, ApiError> {
        if D::FRAMING.keepalive.is_none() {
            return Ok(Self::Open(Box::new(opening.await?)));
        }
        match timeout(longest, &mut opening).await {
            Ok(opened) => Ok(Self::Open(Box::new(opened?))),
            Err(_elapsed) => Ok(Self::Opening(opening)),
        }
    }
}

/// How the stream is sent.
pub(super) struct Settings {
    /// Longest silence.
    pub(super) keepalive: Duration,
    /// For the error event.
    pub(super) request_id: Option<RequestId>,
    /// Where that event is counted.
    pub(super) metrics: HttpMetrics,
}

/// The response of a stream.
pub(super) fn respond<D: Dialect>(source: Source<D::Answer>, settings: Settings) -> Response {
    let mut events = Events::<D> {
        source,
        timer: Box::pin(sleep(settings.keepalive)),
        settings,
        ready: Vec::new(),
        span: trace::respond(),
    };
    match &mut events.source {
        // It has been silent for long enough.
        Source::Opening(_) => events.ready.extend_from_slice(D::FRAMING.keepalive.unwrap_or_default()),
        Source::Open(opened) => opened.answer.first(&mut events.ready),
        Source::Ended => {}
    }
    let headers = [
        (header::CONTENT_TYPE, D::FRAMING.media_type),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies must not wait for more.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

struct Events<D: Dialect> {
    source: Source<D::Answer>,
    settings: Settings,
    /// Runs since something was sent.
    timer: Pin<Box<Sleep>>,
    /// Bytes to send before anything else.
    ready: Vec<u8>,
    /// Of the request.
    span: Span,
}

/// Events that are ready together go out together, up to about this size.
const CHUNK_BYTES: usize = 16 << 10;

impl<D: Dialect> futures_util::Stream for Events<D> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let span = this.span.clone();
        let _entered = span.enter();
        let mut out = std::mem::take(&mut this.ready);
        while out.len() < CHUNK_BYTES {
            match this.poll_event(cx, &mut out) {
                Poll::Ready(()) if matches!(this.source, Source::Ended) => break,
                Poll::Ready(()) => {}
                Poll::Pending if !out.is_empty() => break,
                Poll::Pending => match D::FRAMING.keepalive {
                    Some(keepalive) if this.timer.as_mut().poll(cx).is_ready() => {
                        out.extend_from_slice(keepalive);
                        break;
                    }
                    _ => return Poll::Pending,
                },
            }
        }
        this.timer.as_mut().reset(Instant::now() + this.settings.keepalive);
        Poll::Ready((!out.is_empty()).then(|| Ok(out.into())))
    }
}

impl<D: Dialect> Events<D> {
    /// Writes the next event, or goes on to the next state.
    fn poll_event(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<()> {
        match &mut self.source {
            Source::Opening(opening) => match opening.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(mut opened)) => {
                    opened.answer.first(out);
                    self.source = Source::Open(Box::new(opened));
                }
                Poll::Ready(Err(error)) => self.fail(out, &error),
            },
            Source::Open(opened) => match opened.generation.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(event))) => {
                    opened.answer.event(out, &event);
                    if let OutputEvent::Finish { .. } = event {
                        self.source = Source::Ended;
                    }
                }
                Poll::Ready(Some(Err(error))) => self.fail(out, &error.into()),
                Poll::Ready(None) => self.fail(out, &ServeError::Internal.into()),
            },
            Source::Ended => {}
        }
        Poll::Ready(())
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        self.source = Source::Ended;
        let report = error.report();
        self.settings.metrics.count_error(&report);
        let report = match &self.settings.request_id {
            Some(RequestId(id)) => report.with_request_id(id),
            None => report,
        };
        D::write_error_event(out, &report);
    }
}

#[cfg(test)]
mod tests;
