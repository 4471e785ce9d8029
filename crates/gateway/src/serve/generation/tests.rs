#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use protocol::message::{
    Delta, Failure, FailureKind, FinishReason, Submission, TokenLogprob, TokenLogprobs, Usage,
};

use super::*;
use crate::{
    config::StreamRegistry,
    metrics::MetricRegistry,
    serve::{
        Choices, Output,
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

fn text(text: &str) -> OutputEvent {
    OutputEvent::Delta { text: text.into(), parts: Vec::new(), logprobs: Vec::new() }
}

fn finished() -> StreamEventKind {
    StreamEventKind::Finished { reason: FinishReason::Length, usage: Usage::default() }
}

fn failure() -> Failure {
    Failure { kind: FailureKind::Internal, param: None, message: "broke".into() }
}

fn now(generation: &mut Generation) -> Option<Result<OutputEvent, ServeError>> {
    std::future::poll_fn(|cx| generation.poll_next(cx)).now_or_never().expect("an event is ready")
}

fn output_of(generation: Generation) -> Result<Output, ServeError> {
    Choices::from(generation).collect().now_or_never().unwrap().map(|mut outputs| outputs.remove(0))
}

#[tokio::test]
async fn deltas_have_text_and_the_end_comes_once() {
    let world = World::new();
    let mut generation =
        world.begin(vec![prepared(), chunk("a"), chunk(""), chunk("b"), finished()]).unwrap();
    assert_eq!(generation.digest(), "d");
    assert_eq!(now(&mut generation), Some(Ok(text("a"))));
    assert_eq!(now(&mut generation), Some(Ok(text("b"))));
    let end = OutputEvent::Finish { reason: FinishReason::Length, usage: Usage::default() };
    assert_eq!(now(&mut generation), Some(Ok(end)));
    assert_eq!(now(&mut generation), None);
}

#[tokio::test]
async fn what_was_collected_is_the_whole_text_or_the_error() {
    let world = World::new();
    let generation = world.begin(vec![prepared(), chunk("a"), chunk("b"), finished()]).unwrap();
    let output = output_of(generation).unwrap();
    assert_eq!((output.text.as_str(), output.reason), ("ab", Some(FinishReason::Length)));
    let failed = StreamEventKind::Failed(failure());
    let generation = world.begin(vec![prepared(), chunk("a"), failed]).unwrap();
    let error = output_of(generation).unwrap_err();
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

#[tokio::test]
async fn log_probabilities_come_also_without_text() {
    let likely = |logprob| {
        let chosen = TokenLogprob { token: 1, logprob, special: false, bytes: b"a".to_vec() };
        vec![TokenLogprobs { chosen, top: Vec::new() }]
    };
    let delta = |first_token, text: &str, logprob| {
        let tokens = [1][..].into();
        StreamEventKind::Delta(Delta {
            first_token,
            tokens,
            text: text.into(),
            logprobs: likely(logprob),
            ..Delta::default()
        })
    };
    let events = || vec![prepared(), delta(0, "", -1.0), delta(1, "aa", -2.0), finished()];
    let world = World::new();
    let mut generation = world.begin(events()).unwrap();
    let expected = OutputEvent::Delta { text: "".into(), parts: Vec::new(), logprobs: likely(-1.0) };
    assert_eq!(now(&mut generation), Some(Ok(expected)));
    drop(generation);
    let output = output_of(world.begin(events()).unwrap()).unwrap();
    assert_eq!((output.text.as_str(), output.logprobs), ("aa", [likely(-1.0), likely(-2.0)].concat()));
}
