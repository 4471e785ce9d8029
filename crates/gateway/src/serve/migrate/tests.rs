#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::FutureExt;
use protocol::message::{
    Delta, FinishReason, Generate, Prompt, Sampling, StreamEvent, Submission, TraceContext, Usage,
};

use super::*;
use crate::{
    fleet::fixtures,
    metrics::MetricRegistry,
    serve::{plain_request, request::Correlation},
    worker::link::Link,
};

/// A model `m` with workers that the test plays.
pub(crate) struct World {
    registry: Arc<ModelRegistry>,
    opener: Arc<Opener>,
    workers: Vec<PlayedWorker>,
}

/// A worker without a process.
#[derive(Clone)]
pub(crate) struct PlayedWorker {
    link: Link,
}

const FIRST_WAIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

impl World {
    /// With `count` ready workers.
    pub(crate) fn new(count: usize) -> Self {
        let registry = Arc::new(fixtures::registry(count));
        let serve = |number| PlayedWorker { link: fixtures::serve(&registry, number, "d") };
        let workers = (0..count).map(serve).collect();
        let limits = OpenLimits { credit_chunks: 8, recovery_wait: PATIENCE };
        let metrics = ServeMetrics::register(&mut MetricRegistry::new());
        let opener = Arc::new(Opener::new(Arc::clone(&registry), limits, metrics));
        Self { registry, opener, workers }
    }

    /// A stream, if a worker takes it at once.
    pub(crate) fn begin(&self) -> Option<MigratingStream> {
        let opening =
            MigratingStream::open(&self.opener, InUse::alone("m"), request(), Instant::now(), FIRST_WAIT);
        opening.now_or_never().map(Result::unwrap)
    }

    pub(crate) fn worker(&self, number: usize) -> &PlayedWorker {
        &self.workers[number]
    }

    /// The worker that has the only stream.
    fn holder(&self) -> usize {
        self.workers.iter().position(|worker| worker.link.live_streams() == 1).unwrap()
    }

    /// Worker `number` is lost.
    pub(crate) fn lose(&self, number: usize, loss: Loss) {
        self.worker(number).link.lose_all(&loss);
        fixtures::exit(&self.registry, number);
    }

    /// The next process of worker `number` serves the model with this digest.
    fn restart(&mut self, number: usize, digest: &str) {
        self.workers[number] = PlayedWorker { link: fixtures::serve(&self.registry, number, digest) };
    }
}

impl PlayedWorker {
    /// The events reach their stream.
    pub(crate) fn send(&self, id: RequestId, events: Vec<StreamEventKind>) {
        self.link.deliver(events.into_iter().map(|kind| StreamEvent { id, kind }));
    }

    /// What it has been sent since it was last asked.
    pub(crate) fn submitted(&self) -> Vec<Submission> {
        self.link.take_submissions()
    }

    /// The one request among that.
    pub(crate) fn generate(&self) -> Generate {
        let requests = self.submitted().into_iter().filter_map(|submission| match submission {
            Submission::Generate(generate) => Some(*generate),
            _ => None,
        });
        let [request] = <[Generate; 1]>::try_from(requests.collect::<Vec<_>>()).expect("one request");
        request
    }
}

fn request() -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Text("x".into()),
        sampling: Sampling { temperature: 1.0, seed: 7, ..Sampling::default() },
        max_tokens: Some(9),
        stop: vec!["stop".into()],
        ignore_eos: true,
        correlation: Correlation { request_id: Some("r1".into()), trace: Some(TRACE) },
        ..plain_request("m")
    }
}

const TRACE: TraceContext = TraceContext { trace_id: [1; 16], span_id: [2; 8], sampled: true };

const PREPARED: StreamEventKind = StreamEventKind::Prepared { prompt_tokens: 1 };

fn delta(first_token: u32, tokens: &[u32]) -> StreamEventKind {
    StreamEventKind::Delta(Delta { first_token, tokens: tokens.into(), text: "x".into(), ..Delta::default() })
}

fn finished() -> StreamEventKind {
    StreamEventKind::Finished { reason: FinishReason::Stop, usage: Usage::default() }
}

async fn next(stream: &mut MigratingStream) -> Option<Result<StreamEventKind, ServeError>> {
    std::future::poll_fn(|cx| stream.poll_next(cx)).await
}

fn now(stream: &mut MigratingStream) -> Option<Result<StreamEventKind, ServeError>> {
    next(stream).now_or_never().expect("an event is ready")
}

fn crash() -> Loss {
    Loss::Crashed("it broke".into())
}

#[tokio::test]
async fn a_stream_goes_on_behind_its_tokens_on_another_worker() {
    let world = World::new(2);
    let mut stream = world.begin().unwrap();
    // The prompt decides which one it is.
    let (one, other) = (world.holder(), 1 - world.holder());
    let first = world.worker(one).generate();
    assert!(first.resume.is_empty());
    assert_eq!((first.correlation_id.as_deref(), first.trace), (Some("r1"), Some(TRACE)));
    world.worker(one).send(first.id, vec![PREPARED, delta(0, &[4]), delta(1, &[5, 6])]);
    assert_eq!(now(&mut stream), Some(Ok(PREPARED)));
    world.lose(one, crash());
    assert_eq!(now(&mut stream), Some(Ok(delta(0, &[4]))), "what was published counts");
    assert_eq!(now(&mut stream), Some(Ok(delta(1, &[5, 6]))));
    assert!(next(&mut stream).now_or_never().is_none());
    let second = world.worker(other).generate();
    assert_ne!(second.id, first.id);
    assert_eq!(second, Generate { id: second.id, resume: vec![4, 5, 6], ..first });
    world.worker(other).send(second.id, vec![PREPARED, delta(3, &[7]), finished()]);
    assert_eq!(now(&mut stream), Some(Ok(delta(3, &[7]))), "it is prepared once");
    assert_eq!(now(&mut stream), Some(Ok(finished())));
    assert_eq!(now(&mut stream), None);
}

#[tokio::test]
async fn a_stream_waits_for_the_next_process_of_its_worker() {
    let mut world = World::new(1);
    let mut stream = world.begin().unwrap();
    let first = world.worker(0).generate();
    world.worker(0).send(first.id, vec![delta(0, &[4])]);
    world.lose(0, Loss::Killed("by 9".into()));
    assert_eq!(now(&mut stream), Some(Ok(delta(0, &[4]))));
    assert!(next(&mut stream).now_or_never().is_none());
    world.restart(0, "d");
    assert!(next(&mut stream).now_or_never().is_none());
    let second = world.worker(0).generate();
    assert_eq!(second.resume, [4]);
    world.worker(0).send(second.id, vec![PREPARED, finished()]);
    assert_eq!(now(&mut stream), Some(Ok(PREPARED)), "the first worker had not prepared it");
    assert_eq!(now(&mut stream), Some(Ok(finished())));
}

#[tokio::test]
async fn a_request_for_a_worker_that_restarts_waits() {
    let mut world = World::new(1);
    world.lose(0, crash());
    let opener = Arc::clone(&world.opener);
    let mut opening = std::pin::pin!(MigratingStream::open(
        &opener,
        InUse::alone("m"),
        request(),
        Instant::now(),
        FIRST_WAIT
    ));
    assert!(opening.as_mut().now_or_never().is_none());
    world.restart(0, "d");
    let _stream = opening.await.unwrap();
    assert!(world.worker(0).generate().resume.is_empty());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_worker_has_an_end() {
    let world = World::new(1);
    let mut stream = world.begin().unwrap();
    world.lose(0, crash());
    let no_worker = || ServeError::from(RouteError::NoWorker { model: "m".into() });
    let begun = tokio::time::Instant::now();
    let Some(Err(ServeError::Failed(failure))) = next(&mut stream).await else { panic!("it goes on") };
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(failure.message.contains("no worker is ready"), "{}", failure.message);
    assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    assert_eq!(next(&mut stream).await, None);
    let error =
        MigratingStream::open(&world.opener, InUse::alone("m"), request(), Instant::now(), FIRST_WAIT)
            .await
            .unwrap_err();
    assert_eq!(error, no_worker());
    assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs() + 1);
}

#[tokio::test]
async fn two_crashes_at_the_same_token_end_a_stream_with_an_error() {
    let mut world = World::new(2);
    let mut stream = world.begin().unwrap();
    let (one, other) = (world.holder(), 1 - world.holder());
    let first = world.worker(one).generate();
    world.worker(one).send(first.id, vec![PREPARED, delta(0, &[4])]);
    world.lose(one, crash());
    assert_eq!((now(&mut stream), now(&mut stream)), (Some(Ok(PREPARED)), Some(Ok(delta(0, &[4])))));
    assert!(next(&mut stream).now_or_never().is_none());
    world.restart(one, "d");
    world.worker(other).generate();
    world.lose(other, crash());
    let Some(Err(ServeError::Failed(failure))) = now(&mut stream) else { panic!("a third worker got it") };
    assert_eq!(failure.kind, FailureKind::Internal);
    assert!(failure.message.contains("it broke"), "{}", failure.message);
    assert_eq!(now(&mut stream), None);
    assert!(world.worker(one).submitted().is_empty());
}

#[tokio::test]
async fn another_model_does_not_continue_a_stream() {
    let mut world = World::new(1);
    let mut stream = world.begin().unwrap();
    world.lose(0, Loss::Left("restart".into()));
    world.restart(0, "another digest");
    let Some(Err(ServeError::Failed(failure))) = now(&mut stream) else { panic!("it went on") };
    assert!(failure.message.contains("replaced"), "{}", failure.message);
    // What was opened there is cancelled, before it was sent.
    assert!(world.worker(0).submitted().is_empty());
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_cancelled_wherever_it_is() {
    let mut world = World::new(1);
    let stream = world.begin().unwrap();
    let id = world.worker(0).generate().id;
    drop(stream);
    assert!(matches!(world.worker(0).submitted()[..], [Submission::Cancel(it)] if it == id));
    let mut stream = world.begin().unwrap();
    world.lose(0, crash());
    assert!(next(&mut stream).now_or_never().is_none());
    drop(stream);
    world.restart(0, "d");
    assert!(world.worker(0).submitted().is_empty());
}
