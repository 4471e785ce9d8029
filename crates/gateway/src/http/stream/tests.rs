#![allow(clippy::unwrap_used)]

use http_body_util::BodyExt;
use tokio::{sync::oneshot, time::timeout};

use super::*;
use crate::{
    http::{
        dialect::{Asked, Framing},
        error::ErrorReport,
        sse,
    },
    metrics::MetricRegistry,
    serve::Output,
};

/// A dialect whose streams have keep-alives or not.
struct Lines<const KEEPALIVE: bool>;

struct NoAnswer;

impl<const KEEPALIVE: bool> Dialect for Lines<KEEPALIVE> {
    type Context = ();
    type Answer = NoAnswer;

    const FRAMING: Framing = Framing {
        media_type: "text/plain",
        keepalive: if KEEPALIVE { sse::FRAMING.keepalive } else { None },
    };

    fn read(_body: &[u8]) -> Result<Asked<()>, ApiError> {
        Err(ApiError::Internal)
    }

    fn answer(_context: (), _generation: &Generation) -> Result<NoAnswer, ApiError> {
        Ok(NoAnswer)
    }

    fn write_error_event(out: &mut Vec<u8>, error: &ErrorReport) {
        let ErrorReport { code, request_id, .. } = error;
        out.extend(format!("{} {}\n", code.unwrap(), request_id.as_deref().unwrap()).into_bytes());
    }
}

impl Answer for NoAnswer {
    fn full(&self, _output: &Output) -> Vec<u8> {
        Vec::new()
    }

    fn first(&mut self, _out: &mut Vec<u8>) {}

    fn event(&mut self, _out: &mut Vec<u8>, _event: &OutputEvent) {}
}

const KEEPALIVE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

/// An opening that fails when it is told.
fn opening() -> (oneshot::Sender<ApiError>, Opening<NoAnswer>) {
    let (fail, failed) = oneshot::channel();
    (fail, Box::pin(async move { Err(failed.await.unwrap()) }))
}

fn body_of<D: Dialect>(source: Source<D::Answer>) -> Body {
    let request_id = Some(RequestId("r1".into()));
    let metrics = HttpMetrics::register(&mut MetricRegistry::new());
    respond::<D>(source, Settings { keepalive: KEEPALIVE, request_id, metrics }).into_body()
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
