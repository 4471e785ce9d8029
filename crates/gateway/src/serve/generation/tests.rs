#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use protocol::message::{Delta, Failure, FailureKind, FinishReason, Submission, Usage};

use super::*;
use crate::{
    config::StreamRegistry,
    metrics::MetricRegistry,
    serve::{
        admission::{Admission, AdmissionMetrics},
        migrate::tests::World as Fleet,
    },
};

/// A worker that serves one stream, and the place that it takes.
struct World {
    fleet: Fleet,
    admission: Admission,
}

impl World {
    fn new() -> Self {
        let settings = StreamRegistry { max_waiting: 0, ..StreamRegistry::of_streams(1) };
        let metrics = AdmissionMetrics::register(&mut MetricRegistry::new());
        Self { fleet: Fleet::new(1), admission: Admission::new(settings, metrics) }
    }

    /// A generation whose worker sends these events.
    fn begin(&self, events: Vec<StreamEventKind>) -> Result<Generation, ServeError> {
        let permit = self.admission.admit("m").now_or_never().unwrap().unwrap();
        let stream = self.fleet.begin().unwrap();
        let id = self.fleet.worker(0).generate().id;
        self.fleet.worker(0).send(id, events);
        Generation::prepared(permit, stream).now_or_never().expect("an event is ready")
    }

    fn has_place(&self) -> bool {
        self.admission.admit("m").now_or_never().unwrap().is_ok()
    }
}

fn prepared() -> StreamEventKind {
    StreamEventKind::Prepared { prompt_tokens: 1 }
}

fn chunk(text: &str) -> StreamEventKind {
    StreamEventKind::Delta(Delta { text: text.into(), ..Delta::default() })
}

fn finished() -> StreamEventKind {
    StreamEventKind::Finished { reason: FinishReason::Length, usage: Usage::default() }
}

fn failure() -> Failure {
    Failure { kind: FailureKind::Internal, param: None, message: "broke".into() }
}

fn now(generation: &mut Generation) -> Option<Result<OutputEvent, ServeError>> {
    generation.next().now_or_never().expect("an event is ready")
}

#[tokio::test]
async fn deltas_have_text_and_the_end_comes_once() {
    let world = World::new();
    let mut generation =
        world.begin(vec![prepared(), chunk("a"), chunk(""), chunk("b"), finished()]).unwrap();
    assert_eq!(generation.digest(), "d");
    assert_eq!(now(&mut generation), Some(Ok(OutputEvent::TextDelta("a".into()))));
    assert_eq!(now(&mut generation), Some(Ok(OutputEvent::TextDelta("b".into()))));
    let end = OutputEvent::Finish { reason: FinishReason::Length, usage: Usage::default() };
    assert_eq!(now(&mut generation), Some(Ok(end)));
    assert_eq!(now(&mut generation), None);
}

#[tokio::test]
async fn what_was_collected_is_the_whole_text_or_the_error() {
    let world = World::new();
    let generation = world.begin(vec![prepared(), chunk("a"), chunk("b"), finished()]).unwrap();
    let output = generation.collect().now_or_never().unwrap().unwrap();
    assert_eq!((output.text.as_str(), output.reason), ("ab", FinishReason::Length));
    let failed = StreamEventKind::Failed(failure());
    let generation = world.begin(vec![prepared(), chunk("a"), failed]).unwrap();
    let error = generation.collect().now_or_never().unwrap().unwrap_err();
    assert_eq!(error, ServeError::Failed(failure()));
}

#[tokio::test]
async fn a_worker_that_refuses_or_breaks_the_order_ends_the_generation_with_one_error() {
    let world = World::new();
    let refused = world.begin(vec![StreamEventKind::Failed(failure())]).unwrap_err();
    assert_eq!(refused, ServeError::Failed(failure()));
    for first in [chunk("a"), finished()] {
        assert_eq!(world.begin(vec![first]).unwrap_err(), ServeError::Internal);
        assert!(world.has_place());
    }
    let mut generation = world.begin(vec![prepared(), prepared(), chunk("a")]).unwrap();
    assert!(matches!(now(&mut generation), Some(Err(ServeError::Failed(_)))));
    assert_eq!(now(&mut generation), None);
}

#[tokio::test]
async fn a_dropped_generation_is_cancelled_and_gives_its_place_back() {
    let world = World::new();
    let generation = world.begin(vec![prepared(), chunk("a")]).unwrap();
    assert!(!world.has_place());
    drop(generation);
    assert!(world.has_place());
    assert!(matches!(world.fleet.worker(0).submitted()[..], [Submission::Cancel(_)]));
}
