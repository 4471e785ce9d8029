//! What goes into steps and what comes of them.

use std::sync::atomic::{AtomicU32, Ordering};

use protocol::message::{Delta, FinishReason, Usage};

use super::*;

#[test]
fn sequences_share_steps_and_each_ends_at_its_own_length() {
    let mut world = World::new(alphabet());
    for (id, max_tokens) in [(1, 3), (2, 5), (3, 1)] {
        world.ask(id, Ask { prompt: vec![id as u32], max_tokens, ..Ask::default() });
    }
    assert_eq!(world.settle(), Turn::Idle);
    assert_eq!(world.steps(), [vec![1; 3], vec![1; 2], vec![1; 2], vec![1], vec![1]]);
    for (id, text) in [(1, "cde"), (2, "defgh"), (3, "e")] {
        let stream = world.stream(id);
        assert_eq!((stream.text.as_str(), stream.reason()), (text, Some(FinishReason::Length)));
    }
    assert!(world.requests.is_empty());
}

#[test]
fn a_long_prompt_is_computed_in_chunks_while_others_decode() {
    let mut world = World::new(alphabet());
    world.ask(1, Ask { max_tokens: 10, ..Ask::default() });
    world.turn();
    world.ask(2, Ask { prompt: vec![5; 10], max_tokens: 1, ..Ask::default() });
    for _ in 0..3 {
        assert_eq!(world.turn(), Turn::Stepped);
    }
    assert_eq!(world.steps(), [vec![1], vec![1, 4], vec![1, 4], vec![1, 2]]);
    assert_eq!(world.stream(1).text, "bcde");
    assert_eq!(world.stream(2).text, "g", "nothing is chosen before the prompt's end");
}

#[test]
fn events_of_a_step_are_one_report_and_the_end_follows_the_last_chunk() {
    let mut world = World::new(alphabet());
    world.ask(1, Ask { max_tokens: 2, ..Ask::default() });
    world.ask(2, Ask { prompt: vec![9, 9], max_tokens: 1, ..Ask::default() });
    world.settle();
    let delta = |id, text: &str, first_token, token| {
        let delta = Delta { first_token, tokens: [token][..].into(), text: text.into(), ..Delta::default() };
        StreamEvent { id: RequestId(id), kind: StreamEventKind::Delta(delta) }
    };
    let finished = |id, prompt_tokens, completion_tokens| {
        let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
        let kind = StreamEventKind::Finished { reason: FinishReason::Length, usage };
        StreamEvent { id: RequestId(id), kind }
    };
    let started = |id| StreamEvent { id: RequestId(id), kind: StreamEventKind::Started { cached_tokens: 0 } };
    let expected = [
        vec![started(1), started(2)],
        vec![delta(1, "b", 0, 1), delta(2, "k", 0, 10), finished(2, 2, 1)],
        vec![delta(1, "c", 1, 2), finished(1, 1, 2)],
    ];
    assert_eq!(world.reports.reports(), expected.map(Report::Events));
}

#[test]
fn more_events_than_a_report_takes_go_in_several() {
    let mut world = World::new(alphabet());
    let long = "x".repeat(100_000);
    world.tokenizer = Arc::new(tokenizer(|letter| if letter == 'b' { long.clone() } else { letter.into() }));
    (0..5).for_each(|id| drop(world.ask(id, Ask { max_tokens: 2, ..Ask::default() })));
    world.settle();
    let sizes: Vec<usize> = world
        .reports
        .reports()
        .iter()
        .map(|report| if let Report::Events(events) = report { events.len() } else { 0 })
        .collect();
    assert_eq!(sizes, [5, 2, 2, 1, 10]);
    assert!(world.reports.streams().values().all(|stream| stream.text == format!("{long}c")));
}

#[test]
fn a_stop_string_over_several_tokens_ends_the_output_before_it() {
    let mut world = World::new(alphabet());
    let stop = vec!["efg".into(), "x".into()];
    world.ask(1, Ask { max_tokens: 20, stop, ..Ask::default() });
    world.ask(2, Ask { max_tokens: 4, stop: vec!["efg".into()], ..Ask::default() });
    world.settle();
    let stream = world.stream(1);
    assert_eq!((stream.text.as_str(), stream.reason()), ("bcd", Some(FinishReason::Stop)));
    assert_eq!(stream.tokens, [1, 2, 3, 4, 5, 6], "every token is reported, also of what is not shown");
    let stream = world.stream(2);
    assert_eq!((stream.text.as_str(), stream.reason()), ("bcde", Some(FinishReason::Length)), "held back");
}

#[test]
fn an_end_of_sequence_token_ends_the_output_and_is_not_shown() {
    let mut world = World::new(alphabet());
    let stop = vec!["cd".into()];
    world.ask(1, Ask { eos: vec![3], stop, ..Ask::default() });
    world.settle();
    let stream = world.stream(1);
    assert_eq!((stream.text.as_str(), stream.reason()), ("bc", Some(FinishReason::Stop)));
    assert_eq!(stream.tokens, [1, 2, 3]);
    assert!(
        matches!(stream.end, Some(StreamEventKind::Finished { usage, .. }) if usage.completion_tokens == 3)
    );
}

#[test]
fn a_cancelled_stream_is_in_no_later_step_and_says_nothing_more() {
    let mut world = World::new(alphabet());
    world.ask(1, Ask { max_tokens: 20, ..Ask::default() });
    world.ask(2, Ask { max_tokens: 20, ..Ask::default() });
    world.turn();
    let before = world.stream(1);
    world.cancel(1);
    world.turn();
    assert_eq!(world.steps().last(), Some(&vec![1]));
    assert_eq!(world.stream(1), before);
    assert!(world.requests.begin(RequestId(1), 1).is_some(), "its id is free again");
}

#[test]
fn a_cancelled_stream_that_waits_for_a_place_or_for_credit_is_gone_too() {
    let limits = Limits { max_num_seqs: 1, ..LIMITS };
    let mut world = World::with_limits(alphabet(), limits);
    world.ask(1, Ask { max_tokens: 20, ..Ask::default() });
    world.ask(2, Ask::default());
    world.ask(3, Ask { credit: 0, ..Ask::default() });
    world.turn();
    [1, 2, 3].into_iter().for_each(|id| world.cancel(id));
    assert_eq!(world.turn(), Turn::Idle);
    assert!(world.requests.is_empty());
}

#[test]
fn a_stream_without_credit_pauses_and_goes_on_where_it_stood() {
    let mut world = World::new(alphabet());
    world.ask(1, Ask { max_tokens: 4, credit: 2, ..Ask::default() });
    assert_eq!(world.settle(), Turn::Idle);
    assert_eq!((world.stream(1).text.as_str(), world.stream(1).end), ("bc", None));
    assert_eq!(world.engine.stats.heartbeat().paused, 1);
    world.credit(1, 1);
    world.settle();
    assert_eq!(world.stream(1).text, "bcd");
    world.credit(1, 5);
    world.settle();
    let stream = world.stream(1);
    assert_eq!((stream.text.as_str(), stream.reason()), ("bcde", Some(FinishReason::Length)));
    assert_eq!(world.steps().concat(), [1; 4], "nothing is computed twice");
}

#[test]
fn one_that_has_no_credit_keeps_no_other_waiting() {
    let limits = Limits { max_num_seqs: 1, ..LIMITS };
    let mut world = World::with_limits(alphabet(), limits);
    world.ask(1, Ask { credit: 1, ..Ask::default() });
    world.ask(2, Ask::default());
    world.settle();
    assert_eq!(world.stream(2).reason(), Some(FinishReason::Length));
    assert_eq!(world.stream(1).text, "b");
}

#[test]
fn short_memory_preempts_and_changes_no_output() {
    let limits = Limits { kv_tokens: 20, ..LIMITS };
    let asks: Vec<Ask> =
        (0..3).map(|n| Ask { prompt: vec![n; 5], max_tokens: 12, ..Ask::default() }).collect();
    let run = |limits| {
        let mut world = World::with_limits(FakeModel::random(VOCAB), limits);
        asks.iter().zip(0..).for_each(|(ask, id)| drop(world.ask(id, ask.clone())));
        world.settle();
        let preemptions = world.engine.stats.heartbeat().preemptions;
        (world.reports.streams(), world.steps().concat().iter().sum::<usize>(), preemptions)
    };
    let ((scarce, computed, preemptions), (ample, least, none)) = (run(limits), run(LIMITS));
    assert_eq!(scarce, ample);
    assert!(computed > least && preemptions > 0, "{computed}: memory was not short");
    assert_eq!(none, 0);
}

#[test]
fn a_drain_ends_the_engine_after_every_stream_has_ended() {
    let mut world = World::new(alphabet());
    world.ask(1, Ask { max_tokens: 3, credit: 2, ..Ask::default() });
    world.messages.send(EngineMessage::Drain).unwrap();
    assert_eq!(world.settle(), Turn::Idle, "it waits for credit");
    // Requests that have not become sequences are waited for, too.
    world.requests.begin(RequestId(2), 1).unwrap();
    world.credit(1, 9);
    assert_eq!(world.settle(), Turn::Idle);
    assert!(world.stream(1).end.is_some() && !world.reports.reports().contains(&Report::Drained));
    world.requests.end(RequestId(2));
    assert_eq!(world.turn(), Turn::Ended);
    assert_eq!(world.reports.reports().last(), Some(&Report::Drained));
}

#[test]
fn the_engine_ends_when_nobody_can_send_to_it() {
    let mut world = World::new(alphabet());
    world.messages = unbounded().0;
    assert_eq!(world.turn(), Turn::Ended);
}

#[test]
fn numbers_are_published_before_the_step_that_they_are_about() {
    let (runnable, waiting) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let limits = Limits { max_num_seqs: 2, ..LIMITS };
    let (seen_runnable, seen_waiting) = (Arc::clone(&runnable), Arc::clone(&waiting));
    let stats = Arc::new(EngineStats::default());
    let seen = Arc::clone(&stats);
    let model = alphabet().hooked(move |_| {
        seen_runnable.store(seen.heartbeat().runnable, Ordering::Relaxed);
        seen_waiting.store(seen.heartbeat().waiting, Ordering::Relaxed);
        Ok(())
    });
    let mut world = World::with_limits(model, limits);
    world.engine.stats = Arc::clone(&stats);
    (0..3).for_each(|id| drop(world.ask(id, Ask::default())));
    world.turn();
    assert_eq!((runnable.load(Ordering::Relaxed), waiting.load(Ordering::Relaxed)), (2, 1));
    assert_eq!((stats.heartbeat().step, stats.heartbeat().kv_tokens), (1, 2));
    world.settle();
    assert_eq!((stats.heartbeat().runnable, stats.heartbeat().kv_tokens), (0, 0));
}

#[test]
fn a_heartbeat_shows_that_a_step_goes_on_if_the_model_counts() {
    let mut silent = World::new(alphabet());
    silent.ask(1, Ask::default());
    silent.settle();
    assert_eq!(silent.engine.stats.heartbeat().progress, None);

    let mut world = World::new(alphabet().counting());
    world.ask(1, Ask::default());
    world.ask(2, Ask::default());
    let mut before = world.engine.stats.heartbeat().progress.unwrap();
    while world.turn() == Turn::Stepped {
        let after = world.engine.stats.heartbeat().progress.unwrap();
        assert!(after >= before + 3, "a step, and a piece for each row at least");
        before = after;
    }
    assert_eq!(world.engine.stats.heartbeat().progress, Some(before), "nothing is left to be done");
}
