#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use protocol::message::{Answer, Operation, OperationKind, Sampling, TokenizeInput};

use super::*;

const ID: RequestId = RequestId(7);

fn generate(prompt: &str, seed: u64, max_tokens: u32, resume: Vec<u32>, credit: u32) -> Submission {
    let prompt = Prompt::Text(prompt.into());
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
    let plain = Generate::new(ID, prompt, credit);
    Submission::Generate(Box::new(Generate { sampling, max_tokens: Some(max_tokens), resume, ..plain }))
}

/// Events of a submission and of all steps that follow it.
fn run(engine: &mut Engine, submission: Submission) -> Vec<StreamEventKind> {
    let (now, mut events) = (Instant::now(), Vec::new());
    engine.submit(submission, now, &mut events);
    while let Some(due) = engine.next_step() {
        engine.step(due, &mut events);
    }
    events.into_iter().map(|event| event.kind).collect()
}

fn deltas(events: &[StreamEventKind]) -> Vec<Delta> {
    let delta = |event: &StreamEventKind| match event {
        StreamEventKind::Delta(delta) => Some(delta.clone()),
        _ => None,
    };
    events.iter().filter_map(delta).collect()
}

#[test]
fn a_stream_is_prepared_continued_and_ended_once() {
    let events = run(&mut Engine::new(0), generate("ab", 3, 4, Vec::new(), 64));
    assert_eq!(events[0], StreamEventKind::Prepared { prompt_tokens: 2 });
    let usage = Usage { prompt_tokens: 2, completion_tokens: 4, ..Usage::default() };
    assert_eq!(events[5..], [StreamEventKind::Finished { reason: FinishReason::Length, usage }]);
    let places: Vec<u32> = deltas(&events).iter().map(|delta| delta.first_token).collect();
    assert_eq!(places, [0, 1, 2, 3]);
}

proptest! {
    #[test]
    fn another_worker_goes_on_as_this_one_would_have(seed: u64, length in 1..40_u32, at in 0..40_u32) {
        let at = at.min(length);
        let whole = run(&mut Engine::new(0), generate("p", seed, length, Vec::new(), 64));
        let before: Vec<u32> = deltas(&whole)[..at as usize].iter().flat_map(|it| it.tokens.clone()).collect();
        let rest = run(&mut Engine::new(0), generate("p", seed, length, before, 64));
        prop_assert_eq!(&deltas(&whole)[at as usize..], &deltas(&rest)[..]);
        prop_assert_eq!(whole.last(), rest.last());
    }
}

#[test]
fn credit_is_kept_to() {
    let mut engine = Engine::new(0);
    let events = run(&mut engine, generate("a", 0, 5, Vec::new(), 2));
    assert_eq!(deltas(&events).len(), 2);
    let now = engine.heartbeat();
    assert_eq!((now.runnable, now.paused, now.kv_tokens), (0, 1, 3));
    assert_eq!(deltas(&run(&mut engine, Submission::Credit { id: ID, chunks: 1 })).len(), 1);
    let last = run(&mut engine, Submission::Credit { id: ID, chunks: 9 });
    assert!(last.last().unwrap().is_terminal() && deltas(&last).len() == 2);
    assert_eq!(engine.heartbeat().kv_tokens, 0);
}

#[test]
fn a_cancelled_stream_is_silent_and_a_drained_engine_finishes_the_others() {
    let mut engine = Engine::new(0);
    run(&mut engine, generate("a", 0, 5, Vec::new(), 1));
    assert!(run(&mut engine, Submission::Drain).is_empty());
    assert!(!engine.is_drained());
    assert!(run(&mut engine, Submission::Cancel(ID)).is_empty());
    assert!(engine.is_drained());
}

#[test]
fn steps_keep_their_distance_also_after_a_late_one() {
    let (start, interval) = (Instant::now(), Duration::from_millis(20));
    let mut engine = Engine::new(50);
    let mut events = Vec::new();
    engine.submit(generate("a", 0, 100, Vec::new(), 64), start, &mut events);
    assert_eq!(engine.next_step(), Some(start + interval));
    engine.step(start + interval / 2, &mut events);
    assert_eq!(events.len(), 2, "prepared, and the first token");
    engine.step(start + interval, &mut events);
    assert_eq!(events.len(), 3);
    assert_eq!(engine.next_step(), Some(start + 2 * interval));
    engine.step(start + 9 * interval, &mut events);
    assert_eq!((events.len(), engine.next_step()), (4, Some(start + 10 * interval)));
}

#[test]
fn what_can_not_begin_fails() {
    let mut engine = Engine::new(0);
    run(&mut engine, generate("a", 0, 5, Vec::new(), 1));
    let kind = |events: Vec<StreamEventKind>| match &events[..] {
        [StreamEventKind::Failed(failure)] => failure.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(run(&mut engine, generate("a", 0, 5, Vec::new(), 1))), FailureKind::Internal);
    let long = "x".repeat(CONTEXT as usize);
    let refused = run(&mut Engine::new(0), generate(&long, 0, 5, Vec::new(), 1));
    assert_eq!(kind(refused), FailureKind::ContextLengthExceeded);
}

#[test]
fn an_operation_is_answered_at_once() {
    let prompt = Prompt::Text("hello".into());
    let input = TokenizeInput { prompt, add_special_tokens: false, add_generation_prompt: false };
    let operation = Operation { id: ID, kind: OperationKind::Count(input) };
    let events = run(&mut Engine::new(50), Submission::Operation(Box::new(operation)));
    assert_eq!(events, [StreamEventKind::Answered(Answer::Count(5))]);
}
