//! A stream that outlives its worker.
//!
//! ```text
//!        ┌───────────── opened again, behind the tokens so far ◄─┐
//!        ▼                                                       │
//! open ► Open ─┬─ event ─► …                                     │
//!              ├─ terminal event ────────────────► Ended         │
//!              └─ lost ─► Moving: wait for a worker, open ───────┘
//!                   │        └─ none in time ───► Ended, with an error
//!                   └─ to blame for the crashes ► Ended, with an error
//! ```
//!
//! What a worker generates depends on the request, the tokens so far and nothing else: the random choice at a position
//! is a function of seed and position. So another worker continues with exactly the tokens that there would have been,
//! and the client sees one stream.

mod blame;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use protocol::{
    ids::RequestId,
    message::{Failure, FailureKind, StreamEventKind},
};
use tokio::time::timeout;
use tracing::{Instrument, Span, debug_span, info};

use self::blame::Blame;
use super::{error::ServeError, metrics::ServeMetrics, request::GenerateRequest};
use crate::{
    fleet::{InUse, ModelRegistry, Route, RouteError, RouteRequest},
    trace::REQUEST,
    worker::{
        loss::Loss,
        streams::{OpenError, Progress, Stream, StreamItem},
    },
};

/// Opens streams on whichever worker is right.
#[derive(Debug)]
pub(super) struct Opener {
    registry: Arc<ModelRegistry>,
    limits: OpenLimits,
    metrics: ServeMetrics,
    last_id: AtomicU64,
    /// Arrivals of requests are counted from here.
    started: Instant,
}

/// Limits of opening a stream.
#[derive(Clone, Copy, Debug)]
pub struct OpenLimits {
    /// Chunks that a worker may send before any was read.
    pub credit_chunks: u32,
    /// How long a stream whose worker is lost waits for another.
    pub recovery_wait: Duration,
}

/// A stream of a request, on whichever worker. Yields what a worker's stream yields, without its losses. Dropping it
/// cancels the generation.
pub(super) struct MigratingStream {
    opener: Arc<Opener>,
    /// Keeps the model loaded.
    model: Arc<InUse>,
    request: Arc<GenerateRequest>,
    /// Digest of the model. Another one would continue with other tokens.
    digest: String,
    /// All tokens that were yielded.
    tokens: Vec<u32>,
    progress: Progress,
    /// The worker is about to accept the prompt, as another did before it.
    again: bool,
    blame: Blame,
    /// Of the request: what is opened while its answer is read belongs there, too.
    span: Span,
    state: State,
}

enum State {
    Open(Stream),
    /// On the way to another worker, since then.
    Moving(Instant, Opening),
    Ended,
}

/// A stream that is being opened, and the digest of the model that its worker serves.
type Opening = Pin<Box<dyn Future<Output = Result<(Stream, String), ServeError>> + Send>>;

impl Opener {
    /// Over the workers in `registry`.
    pub(super) fn new(registry: Arc<ModelRegistry>, limits: OpenLimits, metrics: ServeMetrics) -> Self {
        Self { registry, limits, metrics, last_id: AtomicU64::new(0), started: Instant::now() }
    }

    /// Opens a stream behind `tokens`. Waits at most `longest` for a worker to be ready.
    async fn open(
        &self,
        model: &InUse,
        request: &GenerateRequest,
        tokens: &[u32],
        progress: Progress,
        longest: Duration,
    ) -> Result<(Stream, String), ServeError> {
        let opened = timeout(longest, async {
            loop {
                self.registry.usable(model).await?;
                // The worker may have gone since then, so this may take another turn.
                match self.try_open(model, request, tokens, progress)? {
                    Some(opened) => return Ok::<_, ServeError>(opened),
                    None => tokio::task::yield_now().await,
                }
            }
        });
        opened.await.unwrap_or_else(|_elapsed| Err(RouteError::NoWorker { model: model.to_string() }.into()))
    }

    /// `None` if no worker takes it now.
    fn try_open(
        &self,
        model: &InUse,
        request: &GenerateRequest,
        tokens: &[u32],
        progress: Progress,
    ) -> Result<Option<(Stream, String)>, ServeError> {
        let adapter = request.adapter.as_ref().map(|adapter| adapter.digest.as_str());
        let wanted = RouteRequest::of(&request.prompt).with_adapter(adapter);
        let route = debug_span!(target: REQUEST, "route");
        let routed = route.in_scope(|| self.registry.route(model, wanted));
        let Route { link, info } = match routed {
            Ok(route) => route,
            Err(RouteError::NoWorker { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let arrived = progress.arrived.saturating_duration_since(self.started).as_micros() as u64;
        let message = request.message(self.next_id(), self.limits.credit_chunks, tokens, arrived);
        match link.open(message, progress) {
            Ok(stream) => {
                if request.priority.is_high() {
                    link.hurry();
                }
                Ok(Some((stream, info.digest)))
            }
            Err(OpenError::Lost(_)) => Ok(None),
            Err(OpenError::Unsendable(failure)) => Err(failure.into()),
        }
    }

    fn next_id(&self) -> RequestId {
        RequestId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl MigratingStream {
    /// Opens the stream of `request` for `model`, which arrived at `arrived` and whose span is the current one. Waits at
    /// most `longest` for a worker to be ready.
    ///
    /// # Errors
    /// No worker of the model is ready in time, or the request can't be sent to one.
    pub(super) async fn open(
        opener: &Arc<Opener>,
        model: InUse,
        request: GenerateRequest,
        arrived: Instant,
        longest: Duration,
    ) -> Result<Self, ServeError> {
        let progress = Progress::new(arrived);
        let (stream, digest) = opener.open(&model, &request, &[], progress, longest).await?;
        Ok(Self {
            opener: Arc::clone(opener),
            model: Arc::new(model),
            request: Arc::new(request),
            digest,
            tokens: Vec::new(),
            progress,
            again: false,
            blame: Blame::default(),
            span: Span::current(),
            state: State::Open(stream),
        })
    }

    /// Digest of the model that generates, in hex; with an adapter the adapter's, which is of one model only.
    pub(super) fn digest(&self) -> &str {
        self.request.adapter.as_ref().map_or(&self.digest, |adapter| &adapter.digest)
    }

    /// Prompt tokens that its worker had in its cache; 0 until it has started.
    pub(super) fn cached_tokens(&self) -> u32 {
        match &self.state {
            State::Open(stream) => stream.cached_tokens(),
            State::Moving(..) | State::Ended => 0,
        }
    }

    /// The next event; `None` after the terminal one. After an error nothing follows.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<StreamEventKind, ServeError>>> {
        loop {
            let lost = match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Open(stream) => match ready!(stream.poll_next(cx)) {
                    Some(StreamItem::Event(event)) => match self.accept(&event) {
                        true => return Poll::Ready(Some(Ok(event))),
                        false => continue,
                    },
                    Some(StreamItem::Lost(loss)) => loss,
                    None => return Poll::Ready(None),
                },
                State::Moving(since, opening) => {
                    let since = *since;
                    let opened = ready!(opening.as_mut().poll(cx));
                    if let Err(error) = self.moved(since, opened) {
                        return self.fail(error);
                    }
                    continue;
                }
            };
            if let Err(error) = self.lost(&lost) {
                return self.fail(error);
            }
        }
    }

    /// Notes what another worker would need. False if the client has had it already.
    fn accept(&mut self, event: &StreamEventKind) -> bool {
        match event {
            StreamEventKind::Prepared { .. } if std::mem::take(&mut self.again) => return false,
            StreamEventKind::Prepared { .. } => self.progress.prepared = true,
            StreamEventKind::Delta(delta) if !delta.tokens.is_empty() => {
                self.tokens.extend_from_slice(&delta.tokens);
                self.progress.last_tokens = Some(Instant::now());
            }
            _ => {}
        }
        true
    }

    /// Sets off to another worker, unless the request is to blame.
    fn lost(&mut self, loss: &Loss) -> Result<(), ServeError> {
        if self.blame.on(loss, self.tokens.len()) {
            return Err(to_blame(loss).into());
        }
        info!(why = loss.reason(), tokens = self.tokens.len(), "a stream goes on with another worker");
        self.opener.metrics.count_migration(loss);
        let (opener, model) = (Arc::clone(&self.opener), Arc::clone(&self.model));
        let request = Arc::clone(&self.request);
        let (tokens, progress) = (self.tokens.clone(), self.progress);
        let opening = async move {
            let longest = opener.limits.recovery_wait;
            opener.open(&model, &request, &tokens, progress, longest).await
        };
        self.state = State::Moving(Instant::now(), Box::pin(opening.instrument(self.span.clone())));
        Ok(())
    }

    /// Goes on with the stream that was opened.
    fn moved(
        &mut self,
        since: Instant,
        opened: Result<(Stream, String), ServeError>,
    ) -> Result<(), ServeError> {
        let (stream, digest) = opened.map_err(stranded)?;
        // Before the first token nobody has seen anything of the old one but its name.
        if digest != self.digest {
            return Err(replaced().into());
        }
        self.opener.metrics.migration_time.observe(since.elapsed().as_secs_f64());
        self.again = self.progress.prepared;
        self.state = State::Open(stream);
        Ok(())
    }

    fn fail(&mut self, error: ServeError) -> Poll<Option<Result<StreamEventKind, ServeError>>> {
        self.state = State::Ended;
        Poll::Ready(Some(Err(error)))
    }
}

impl fmt::Debug for MigratingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Open(_) => "open",
            State::Moving(..) => "moving",
            State::Ended => "ended",
        };
        let mut shown = f.debug_struct("MigratingStream");
        shown.field("state", &state).field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

/// For a request that no further worker gets.
fn to_blame(loss: &Loss) -> Failure {
    let message = format!(
        "workers were lost again and again at the same place of this request, which may be the cause, so no other \
         worker gets it; the last time: {}",
        loss.reason()
    );
    Failure { kind: FailureKind::Internal, param: None, message }
}

/// Why a stream that has begun can't go on: what is wrong with the model now is not the whole story.
fn stranded(error: ServeError) -> ServeError {
    let ServeError::Unroutable(why) = error else { return error };
    let message = format!("the worker of this request was lost, and no other can go on with it: {why}");
    Failure { kind: FailureKind::WorkerLost, param: None, message }.into()
}

/// For a stream that can't go on with the model of its beginning.
fn replaced() -> Failure {
    let message =
        "the request's worker was lost, and the model was replaced meanwhile; send the request again";
    Failure { kind: FailureKind::WorkerLost, param: None, message: message.into() }
}

#[cfg(test)]
pub(super) mod tests;
