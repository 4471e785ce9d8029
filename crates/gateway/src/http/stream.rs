//! The body of a streamed answer.
//!
//! ```text
//! Opening ─► Open ─┬─ Finish ─► last events ─────► Ended
//!    └─────────────┴─ error ──► one error event ─► Ended
//! ```
//!
//! The body is polled only when the connection can take more, so reading is what gives credit back. While there is
//! nothing to send, something that clients skip shows them and proxies now and then that the stream is alive. The
//! connection can end the stream from outside, when its client does not read: that needs no polling.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use tokio::{
    task::AbortHandle,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tracing::Span;

use super::{
    budget::Charge,
    dialect::{Answer, Dialect},
    error::ApiError,
    metrics::HttpMetrics,
    request_id::RequestId,
};
use crate::{
    serve::{Choices, ServeError},
    trace,
};

/// Choices that workers have accepted, and what writes their answer.
pub(super) struct Opened<A> {
    pub(super) choices: Choices,
    pub(super) answer: A,
    /// For the memory of the request.
    pub(super) _charge: Charge,
}

/// A request on its way to that.
pub(super) type Opening<A> = Pin<Box<dyn Future<Output = Result<Opened<A>, ApiError>> + Send>>;

/// Where events come from. It owns the generations: when the client goes, they are dropped, which cancels them and
/// frees their places.
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
    /// When it ends, whether somebody reads it or not.
    pub(super) deadline: Option<Instant>,
    /// For the error event.
    pub(super) request_id: Option<RequestId>,
    /// Where that event and the stream's memory are counted.
    pub(super) metrics: HttpMetrics,
}

/// Ends a stream whose client does not read. An extension of the stream's response.
#[derive(Clone, Debug)]
pub(super) struct StreamHandle(Weak<dyn GiveUp>);

/// What [`StreamHandle`] needs of a stream, whatever its dialect.
trait GiveUp: Send + Sync {
    fn give_up(&self, error: &ApiError) -> bool;
    fn expire(&self);
}

impl StreamHandle {
    /// Ends the stream, unless its last event was written: its generations, their places and their keys and values are
    /// given up, and `error` is what the client sees if it reads on. False if there was nothing left to end.
    pub(super) fn give_up(&self, error: &ApiError) -> bool {
        self.0.upgrade().is_some_and(|stream| stream.give_up(error))
    }

    /// The same at its deadline. It ends by itself if it is read then; a client that does not read polls nothing.
    fn expire_at(self, deadline: Instant) -> Expiry {
        let expire = async move {
            sleep_until(deadline).await;
            if let Some(stream) = self.0.upgrade() {
                stream.expire();
            }
        };
        Expiry(tokio::spawn(expire).abort_handle())
    }
}

/// Ends a stream at its deadline, unless the stream is gone before.
struct Expiry(AbortHandle);

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The response of a stream.
pub(super) fn respond<D: Dialect>(source: Source<D::Answer>, settings: Settings) -> Response {
    let mut events = Events::<D> {
        source,
        timer: Box::pin(sleep(settings.keepalive)),
        sent: Instant::now(),
        settings,
        out: BytesMut::new(),
        allocated: false,
        span: trace::respond(),
        expiry: None,
        waiting: None,
    };
    events.make_room();
    match &mut events.source {
        // It has been silent for long enough.
        Source::Opening(_) => events.out.extend_from_slice(D::FRAMING.keepalive.unwrap_or_default()),
        Source::Open(opened) => opened.answer.first(&mut events.out),
        Source::Ended => {}
    }
    let headers = [
        (header::CONTENT_TYPE, D::FRAMING.media_type),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies must not wait for more.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let events = Arc::new(Mutex::new(events));
    let handle = StreamHandle(Arc::downgrade(&events) as Weak<dyn GiveUp>);
    let mut shared = lock(&events);
    shared.expiry = shared.settings.deadline.map(|deadline| handle.clone().expire_at(deadline));
    drop(shared);
    let mut response = (headers, Body::from_stream(Shared(events))).into_response();
    response.extensions_mut().insert(handle);
    response
}

/// The stream, between the body that sends it and the connection that may end it.
struct Shared<D: Dialect>(Arc<Mutex<Events<D>>>);

struct Events<D: Dialect> {
    source: Source<D::Answer>,
    settings: Settings,
    /// Runs out when nothing was sent for long, or before that: it is not set anew whenever something is.
    timer: Pin<Box<Sleep>>,
    /// When something was sent last.
    sent: Instant,
    /// What is to be sent. Its memory is used again once the connection has written what it was given of it.
    out: BytesMut,
    /// Memory was allocated for the next chunk.
    allocated: bool,
    /// Of the request.
    span: Span,
    expiry: Option<Expiry>,
    /// Who waits for the next chunk, if the stream can end meanwhile.
    waiting: Option<Waker>,
}

/// Events that are ready together go out together, up to about this size.
const CHUNK_BYTES: usize = 16 << 10;

/// Memory that a stream has for its chunks: a few events of one token.
const BUFFER_BYTES: usize = 1 << 10;

/// Room for the event of one token, in most dialects. With less, the buffer is begun anew.
const EVENT_BYTES: usize = 384;

/// A stream whose chunk was larger does not keep its memory: that is for what comes token by token.
const KEPT_BYTES: usize = 4 << 10;

impl<D: Dialect> futures_util::Stream for Shared<D> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        lock(&self.0).poll_chunk(cx).map(|chunk| chunk.map(Ok))
    }
}

impl<D: Dialect> GiveUp for Mutex<Events<D>> {
    fn give_up(&self, error: &ApiError) -> bool {
        let mut events = lock(self);
        if matches!(events.source, Source::Ended) {
            return false;
        }
        events.settings.metrics.slow_consumers.inc();
        events.fail(error);
        true
    }

    fn expire(&self) {
        let mut events = lock(self);
        match &mut events.source {
            Source::Ended => return,
            Source::Open(opened) => opened.choices.fail(),
            Source::Opening(_) => {}
        }
        events.fail(&ServeError::DeadlinePassed.into());
        events.waiting.take().into_iter().for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a dialect ends the connection, and nobody reads on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Dialect> Events<D> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let span = self.span.clone();
        let _entered = span.enter();
        self.make_room();
        while self.out.len() < CHUNK_BYTES {
            match self.poll_event(cx) {
                Poll::Ready(()) if matches!(self.source, Source::Ended) => break,
                Poll::Ready(()) => {}
                Poll::Pending if !self.out.is_empty() => break,
                Poll::Pending => match D::FRAMING.keepalive {
                    Some(keepalive) if self.was_silent(cx) => {
                        self.out.extend_from_slice(keepalive);
                        break;
                    }
                    _ => {
                        self.waiting = self.expiry.is_some().then(|| cx.waker().clone());
                        return Poll::Pending;
                    }
                },
            }
        }
        Poll::Ready((!self.out.is_empty()).then(|| self.take_chunk()))
    }

    /// Makes sure that the next event need not allocate: the memory of chunks that were sent is used again.
    fn make_room(&mut self) {
        if !self.out.try_reclaim(EVENT_BYTES) {
            self.out.reserve(BUFFER_BYTES);
            self.allocated = true;
        }
    }

    fn take_chunk(&mut self) -> Bytes {
        let chunk = self.out.split().freeze();
        if chunk.len() > KEPT_BYTES {
            self.out = BytesMut::new();
        }
        let grew = chunk.len() > BUFFER_BYTES;
        self.settings.metrics.chunks.count(!std::mem::take(&mut self.allocated) && !grew);
        self.sent = Instant::now();
        chunk
    }

    /// Whether nothing was sent for as long as a stream may be silent.
    fn was_silent(&mut self, cx: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.sent + self.settings.keepalive;
            if Instant::now() >= due {
                return true;
            }
            self.timer.as_mut().reset(due);
        }
        false
    }

    /// Writes the next event, or goes on to the next state.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let out = &mut self.out;
        match &mut self.source {
            Source::Opening(opening) => match opening.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(mut opened)) => {
                    opened.answer.first(out);
                    self.source = Source::Open(Box::new(opened));
                }
                Poll::Ready(Err(error)) => self.fail(&error),
            },
            Source::Open(opened) => match opened.choices.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok((index, event)))) => {
                    opened.answer.event(out, index, &event);
                    if opened.choices.is_empty() {
                        self.source = Source::Ended;
                    }
                }
                Poll::Ready(Some(Err(error))) => self.fail(&error.into()),
                Poll::Ready(None) => self.fail(&ServeError::Internal.into()),
            },
            Source::Ended => {}
        }
        Poll::Ready(())
    }

    /// Ends the stream with an error event.
    fn fail(&mut self, error: &ApiError) {
        self.source = Source::Ended;
        let report = error.report();
        self.settings.metrics.count_error(&report);
        let report = match &self.settings.request_id {
            Some(RequestId(id)) => report.with_request_id(id),
            None => report,
        };
        D::write_error_event(&mut self.out, &report);
    }
}

#[cfg(test)]
mod tests;
