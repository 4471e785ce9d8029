//! Steps that are launched before the tokens of the one before are read.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::testing::{Failing, injected};

fn launching(model: FakeModel) -> World {
    World::new(model.launching(Some(Failing::AtOnce)))
}

/// Some streams, of which one is drawn, and two need the host.
fn asks() -> Vec<Ask> {
    let warm = Sampling { temperature: 0.8, seed: 7, ..Sampling::default() };
    vec![
        Ask { prompt: vec![1, 2, 3], max_tokens: 9, ..Ask::default() },
        Ask {
            prompt: vec![4; 6],
            max_tokens: 12,
            sampling: Sampling { top_p: 0.9, ..warm.clone() },
            ..Ask::default()
        },
        Ask { prompt: vec![5], max_tokens: 4, sampling: warm.clone(), ..Ask::default() },
        Ask {
            prompt: vec![6, 7],
            sampling: Sampling { logprobs: Some(2), ..warm.clone() },
            ..Ask::default()
        },
        Ask { prompt: vec![8], sampling: Sampling { repetition_penalty: 1.3, ..warm }, ..Ask::default() },
    ]
}

#[test]
fn tokens_are_read_while_the_next_ones_are_computed() {
    let mut world = launching(alphabet());
    world.ask(1, Ask { max_tokens: 4, ..Ask::default() });
    let mut seen = Vec::new();
    while world.turn() == Turn::Stepped {
        seen.push((world.steps().len(), world.stream(1).tokens.len()));
    }
    // The prompt's step is read at once, the next one is only launched. That the fourth token is the last is known.
    assert_eq!(seen, [(1, 1), (2, 1), (3, 2), (4, 3), (4, 4)]);
    assert_eq!(world.stream(1).text, "bcde");
    world.assert_empty();
}

#[test]
fn streams_are_the_same_with_and_without() {
    for together in [1, 2, 3, 5] {
        let run = |model: FakeModel| {
            let mut world = World::new(model);
            for asks in asks().chunks(together) {
                asks.iter().zip(0..).for_each(|(ask, id)| drop(world.ask(id, ask.clone())));
                world.settle();
                world.assert_empty();
            }
            world.reports.events()
        };
        let sorted = |mut events: Vec<StreamEvent>| {
            events.sort_by_key(|event| event.id.0);
            events
        };
        let ordinary = sorted(run(FakeModel::random(VOCAB)));
        assert_eq!(sorted(run(FakeModel::random(VOCAB).launching(Some(Failing::AtOnce)))), ordinary);
    }
}

#[test]
fn what_was_computed_behind_an_end_is_not_sent() {
    let mut world = launching(alphabet());
    world.ask(1, Ask { max_tokens: 20, eos: vec![5], ..Ask::default() });
    world.ask(2, Ask { max_tokens: 20, stop: vec!["gh".into()], ..Ask::default() });
    world.settle();
    let streams = world.reports.streams();
    assert_eq!((streams[&1].text.as_str(), streams[&1].tokens.len()), ("bcde", 5));
    assert_eq!((streams[&2].text.as_str(), streams[&2].tokens.len()), ("bcdef", 7));
    assert!(streams.values().all(|stream| stream.reason() == Some(protocol::message::FinishReason::Stop)));
    // Each was in one step too many, and the last step had nobody else.
    assert_eq!(world.steps().iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 2, 2, 2, 1, 1]);
    world.assert_empty();
}

#[test]
fn whatever_else_there_is_to_do_waits_for_one_step() {
    let mut world = launching(alphabet());
    world.ask(1, Ask { max_tokens: 20, ..Ask::default() });
    (0..3).for_each(|_| assert_eq!(world.turn(), Turn::Stepped));
    assert_eq!((world.steps().len(), world.stream(1).tokens.len()), (3, 2));
    world.ask(2, Ask { prompt: vec![9; 6], max_tokens: 20, ..Ask::default() });
    world.turn();
    assert_eq!(
        (world.steps().len(), world.stream(1).tokens.len()),
        (3, 3),
        "the step is read, and none is launched"
    );
    world.turn();
    assert_eq!(world.steps()[3], [1, 4], "an ordinary step");
    world.cancel(1);
    world.settle();
    assert_eq!(world.stream(2).tokens.len(), 20);
    world.assert_empty();
}

#[test]
fn a_cancel_while_a_step_is_computed_ends_the_stream_at_once() {
    let mut world = launching(alphabet());
    for id in [1, 2] {
        world.ask(id, Ask { max_tokens: 8, ..Ask::default() });
    }
    (0..3).for_each(|_| assert_eq!(world.turn(), Turn::Stepped));
    world.cancel(1);
    let before = world.stream(1);
    world.settle();
    assert_eq!((world.stream(1), world.stream(2).text.as_str()), (before, "bcdefghi"));
    world.assert_empty();
}

#[test]
fn no_more_is_computed_than_there_is_credit_for() {
    let mut world = launching(alphabet());
    world.ask(1, Ask { max_tokens: 8, credit: 3, ..Ask::default() });
    assert_eq!(world.settle(), Turn::Idle);
    assert_eq!((world.stream(1).text.as_str(), world.steps().len()), ("bcd", 3));
    world.credit(1, 10);
    world.settle();
    assert_eq!((world.stream(1).text.as_str(), world.steps().len()), ("bcdefghi", 8));
    world.assert_empty();
}

#[test]
fn a_step_that_fails_when_it_is_read_costs_nobody_anything() {
    for failing in [Failing::AtOnce, Failing::WhenRead] {
        let steps = AtomicU32::new(0);
        let model = FakeModel::random(VOCAB).launching(Some(failing)).hooked(move |rows| {
            let fails = rows.len() > 1 && steps.fetch_add(1, Ordering::Relaxed) % 3 == 1;
            if fails { Err(injected()) } else { Ok(()) }
        });
        let mut world = World::new(model);
        let mut sound = World::new(FakeModel::random(VOCAB));
        for (ask, id) in asks().into_iter().take(3).zip(0..) {
            sound.ask(id, ask.clone());
            world.ask(id, ask);
        }
        sound.settle();
        world.settle();
        assert_eq!(world.reports.streams(), sound.reports.streams(), "{failing:?}");
        world.assert_empty();
    }
}

#[test]
fn a_row_on_which_a_launched_step_fails_ends_its_own_stream() {
    // Behind `y` comes `z`, on which the model fails.
    let poisoned = |rows: &[Vec<u32>]| rows.iter().any(|row| row.contains(&25));
    let model = alphabet().launching(Some(Failing::WhenRead));
    let mut world =
        World::new(model.hooked(move |rows| if poisoned(rows) { Err(injected()) } else { Ok(()) }));
    world.ask(1, Ask { prompt: vec![20], max_tokens: 12, ..Ask::default() });
    world.ask(2, Ask { prompt: vec![1], max_tokens: 12, ..Ask::default() });
    world.settle();
    assert_eq!((world.stream(1).text.as_str(), world.stream(2).text.as_str()), ("vwxyz", "cdefghijklmn"));
    assert!(world.stream(1).failure().contains("injected"));
    world.assert_empty();
}
