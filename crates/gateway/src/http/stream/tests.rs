#![allow(clippy::unwrap_used)]

use http_body_util::BodyExt;
use tokio::{
    sync::oneshot,
    time::{advance, timeout},
};

use super::*;
use crate::{
    http::{
        budget::Budget,
        dialect::{Asked, Framing},
        error::ErrorReport,
        metrics::HttpMetrics,
        sse,
    },
    metrics::MetricRegistry,
    serve::{Output, OutputEvent, fixtures::Player},
};

/// A dialect whose streams have keep-alives or not, and consist of the text.
struct Lines<const KEEPALIVE: bool>;

struct PlainText;

impl<const KEEPALIVE: bool> Dialect for Lines<KEEPALIVE> {
    type Context = ();
    type Answer = PlainText;

    const FRAMING: Framing = Framing {
        media_type: "text/plain",
        keepalive: if KEEPALIVE { sse::FRAMING.keepalive } else { None },
    };

    fn read(_body: &[u8]) -> Result<Asked<()>, ApiError> {
        Err(ApiError::Internal)
    }

    fn answer(_context: (), _choices: &Choices, _echo: Option<String>) -> Result<PlainText, ApiError> {
        Ok(PlainText)
    }

    fn write_error_event(out: &mut BytesMut, error: &ErrorReport) {
        let ErrorReport { code, request_id, .. } = error;
        out.extend_from_slice(format!("{} {}\n", code.unwrap(), request_id.as_deref().unwrap()).as_bytes());
    }
}

impl Answer for PlainText {
    fn full(&self, _outputs: &[Output]) -> Vec<u8> {
        Vec::new()
    }

    fn first(&mut self, _out: &mut BytesMut) {}

    fn event(&mut self, out: &mut BytesMut, _index: u32, event: &OutputEvent) {
        out.extend_from_slice(match event {
            OutputEvent::Delta { text, .. } => text.as_bytes(),
            OutputEvent::Finish { .. } => b".",
        });
    }
}

const KEEPALIVE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);
/// Until streams here have to be answered.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An opening that fails when it is told.
fn opening() -> (oneshot::Sender<ApiError>, Opening<PlainText>) {
    let (fail, failed) = oneshot::channel();
    (fail, Box::pin(async move { Err(failed.await.unwrap()) }))
}

fn response_of<D: Dialect>(source: Source<D::Answer>) -> (Response, HttpMetrics) {
    let metrics = HttpMetrics::register(&mut MetricRegistry::new());
    let request_id = Some(RequestId("r1".into()));
    let settings = Settings {
        keepalive: KEEPALIVE,
        deadline: Some(Instant::now() + DAY),
        request_id,
        metrics: metrics.clone(),
    };
    (respond::<D>(source, settings), metrics)
}

fn body_of<D: Dialect>(source: Source<D::Answer>) -> Body {
    response_of::<D>(source).0.into_body()
}

/// The worker of a stream that has begun, and its response.
fn begun() -> (Player, Response, HttpMetrics) {
    let (player, generation) = Player::begin();
    let opened = Opened { choices: generation.into(), answer: PlainText, _charge: Budget::new(0).charge() };
    let (response, metrics) = response_of::<Lines<true>>(Source::Open(Box::new(opened)));
    (player, response, metrics)
}

async fn next(body: &mut Body) -> Option<Bytes> {
    body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_sends_keep_alives_and_tells_its_error() {
    let (fail, opening) = opening();
    let mut body = body_of::<Lines<true>>(Source::Opening(opening));
    let began = Instant::now();
    for waited in [0, 10, 20] {
        assert_eq!(next(&mut body).await.unwrap(), ": keep-alive\n\n");
        assert_eq!(began.elapsed(), Duration::from_secs(waited));
    }
    fail.send(ApiError::Memory).unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "out_of_memory_budget r1\n");
    assert!(next(&mut body).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_keep_alives_stays_silent() {
    let (fail, opening) = opening();
    let mut body = body_of::<Lines<false>>(Source::Opening(opening));
    assert!(timeout(HOUR, next(&mut body)).await.is_err());
    fail.send(ApiError::Memory).unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "out_of_memory_budget r1\n");
    assert!(next(&mut body).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_header_goes_out_early_only_if_a_keep_alive_can_follow() {
    let (_fail, patient) = opening();
    assert!(matches!(Source::start::<Lines<true>>(patient, KEEPALIVE).await, Ok(Source::Opening(_))));
    let (fail, opening) = opening();
    let mut start = std::pin::pin!(Source::start::<Lines<false>>(opening, KEEPALIVE));
    assert!(timeout(HOUR, &mut start).await.is_err());
    fail.send(ApiError::Memory).unwrap();
    assert!(matches!(start.await, Err(ApiError::Memory)));
}

#[tokio::test(start_paused = true)]
async fn a_long_gap_in_the_middle_is_filled_and_time_counts_from_the_last_chunk() {
    let (player, response, _) = begun();
    let mut body = response.into_body();
    let began = Instant::now();
    player.text("a");
    assert_eq!(next(&mut body).await.unwrap(), "a");
    advance(KEEPALIVE / 2).await;
    player.text("b");
    assert_eq!(next(&mut body).await.unwrap(), "b");
    // A worker that died here takes its time to be replaced.
    for waited in [15, 25, 35] {
        assert_eq!(next(&mut body).await.unwrap(), ": keep-alive\n\n");
        assert_eq!(began.elapsed(), Duration::from_secs(waited));
    }
    player.text("c");
    player.finish();
    assert_eq!(next(&mut body).await.unwrap(), "c.");
    assert!(next(&mut body).await.is_none());
    assert!(!player.is_cancelled() && player.has_place());
}

#[tokio::test(start_paused = true)]
async fn keep_alives_do_not_pile_up_for_a_client_that_does_not_read() {
    let (player, response, _) = begun();
    let mut body = response.into_body();
    advance(HOUR).await;
    assert_eq!(next(&mut body).await.unwrap(), ": keep-alive\n\n");
    assert!(timeout(KEEPALIVE / 2, next(&mut body)).await.is_err(), "one is enough");
    advance(HOUR).await;
    player.text("a");
    assert_eq!(next(&mut body).await.unwrap(), "a", "what is there comes first");
    assert!(timeout(KEEPALIVE / 2, next(&mut body)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_given_up_frees_its_place_at_once_and_tells_why_when_it_is_read() {
    let (player, mut response, metrics) = begun();
    let handle: StreamHandle = response.extensions_mut().remove().unwrap();
    let mut body = response.into_body();
    player.text("a");
    assert_eq!(next(&mut body).await.unwrap(), "a");
    player.text("unread");
    assert!(!player.has_place());
    assert!(handle.give_up(&ApiError::SlowConsumer(HOUR)));
    assert!(player.is_cancelled() && player.has_place(), "without the body being polled");
    assert!(!handle.give_up(&ApiError::SlowConsumer(HOUR)), "once");
    assert_eq!(metrics.slow_consumers.get(), 1);
    assert_eq!(next(&mut body).await.unwrap(), "slow_consumer r1\n");
    assert!(next(&mut body).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_ends_at_its_deadline() {
    let (player, response, metrics) = begun();
    let mut body = response.into_body();
    player.text("a");
    assert_eq!(next(&mut body).await.unwrap(), "a");
    player.text("unread");
    tokio::time::sleep(DAY - KEEPALIVE).await;
    assert!(!player.has_place());
    tokio::time::sleep(KEEPALIVE + Duration::from_millis(1)).await;
    assert!(player.is_cancelled() && player.has_place(), "without the body being polled");
    assert_eq!(metrics.slow_consumers.get(), 0);
    assert_eq!(next(&mut body).await.unwrap(), "deadline_exceeded r1\n");
    assert!(next(&mut body).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_next_chunk_is_told_of_the_deadline_at_once() {
    let (player, generation) = Player::begin();
    let opened = Opened { choices: generation.into(), answer: PlainText, _charge: Budget::new(0).charge() };
    let mut body = body_of::<Lines<false>>(Source::Open(Box::new(opened)));
    let began = Instant::now();
    assert_eq!(next(&mut body).await.unwrap(), "deadline_exceeded r1\n");
    assert_eq!(began.elapsed(), DAY);
    assert!(player.has_place());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_gone_leaves_no_timer() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (player, response, _) = begun();
    assert!(tasks() > before);
    drop(response);
    tokio::task::yield_now().await;
    assert_eq!(tasks(), before);
    drop(player);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_can_be_given_up_and_one_that_has_ended_can_not() {
    let (fail, opening) = opening();
    let (mut response, _) = response_of::<Lines<true>>(Source::Opening(opening));
    let handle: StreamHandle = response.extensions_mut().remove().unwrap();
    assert!(handle.give_up(&ApiError::SlowConsumer(HOUR)));
    assert!(fail.is_closed(), "the request waits no longer");

    let (player, mut response, metrics) = begun();
    let handle: StreamHandle = response.extensions_mut().remove().unwrap();
    let mut body = response.into_body();
    player.text("a");
    player.finish();
    assert_eq!(next(&mut body).await.unwrap(), "a.");
    assert!(!handle.give_up(&ApiError::SlowConsumer(HOUR)), "its last event was written");
    drop(body);
    assert!(!handle.give_up(&ApiError::SlowConsumer(HOUR)));
    assert_eq!(metrics.slow_consumers.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_another_worker_can_be_given_up() {
    let (player, mut response, metrics) = begun();
    let handle: StreamHandle = response.extensions_mut().remove().unwrap();
    let mut body = response.into_body();
    player.die();
    assert!(timeout(KEEPALIVE / 2, next(&mut body)).await.is_err());
    assert!(!player.has_place());
    assert!(handle.give_up(&ApiError::SlowConsumer(HOUR)));
    assert!(player.has_place(), "without the body being polled");
    assert_eq!(metrics.slow_consumers.get(), 1);
    assert_eq!(next(&mut body).await.unwrap(), "slow_consumer r1\n");
    assert!(next(&mut body).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn chunks_that_were_sent_leave_their_memory_to_the_next_ones() {
    let (player, response, metrics) = begun();
    let mut body = response.into_body();
    for n in 0..1000 {
        player.text(&"x".repeat(n % 300 + 1));
        next(&mut body).await.unwrap();
    }
    assert_eq!((metrics.chunks.reused(), metrics.chunks.allocated()), (999, 1));
    // Those that are kept keep their memory, and a large one does not leave its own to others.
    let kept = {
        player.text("kept");
        next(&mut body).await.unwrap()
    };
    for text in ["a".repeat(CHUNK_BYTES), "b".repeat(300), "c".repeat(300)] {
        player.text(&text);
        assert_eq!(next(&mut body).await.unwrap(), text);
    }
    assert_eq!(kept, "kept");
    assert!(metrics.chunks.allocated() > 1);
}
