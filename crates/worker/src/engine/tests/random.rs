//! Anything at any time: every stream is what it would be alone, and ends exactly once.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::*;
use crate::testing::injected;

/// What happens between two steps.
#[derive(Clone, Debug)]
enum Event {
    Ask(Ask),
    Cancel(Index),
    Credit(Index, u32),
    /// The next steps of more than one row fail.
    Fail,
}

fn ask() -> impl Strategy<Value = Ask> {
    let sampling =
        (any::<u64>(), prop_oneof![Just(0.0_f32), Just(0.8)], prop_oneof![Just(1.0_f32), Just(1.3)]);
    (vec(0..VOCAB, 1..14), 1..12_usize, 0..6_u32, vec("[a-z]{1,2}", 0..3), vec(0..VOCAB, 0..3), sampling)
        .prop_map(|(prompt, max_tokens, credit, stop, eos, (seed, temperature, repetition_penalty))| {
            let sampling = Sampling { seed, temperature, repetition_penalty, ..Sampling::default() };
            Ask { prompt, max_tokens, credit, stop, eos, sampling }
        })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => ask().prop_map(Event::Ask),
        1 => any::<Index>().prop_map(Event::Cancel),
        3 => (any::<Index>(), 1..5_u32).prop_map(|(which, chunks)| Event::Credit(which, chunks)),
        1 => Just(Event::Fail),
    ]
}

/// The stream of a request that is alone and never waits.
fn alone(ask: &Ask) -> Stream {
    let limits = Limits { max_num_seqs: 1, chunk_tokens: 100, max_num_batched_tokens: 100, kv_tokens: 100 };
    let mut world = World::with_limits(FakeModel::random(VOCAB), limits);
    world.ask(0, Ask { credit: 100, ..ask.clone() });
    world.settle();
    world.stream(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_stream_is_what_it_would_be_alone_and_ends_exactly_once(
        events in vec(option::weighted(0.6, event()), 1..60),
        max_num_seqs in 1..5_usize,
        kv_tokens in 30..90_usize,
        fragile: bool,
    ) {
        let limits = Limits { max_num_seqs, chunk_tokens: 4, max_num_batched_tokens: 9, kv_tokens };
        let failing = Arc::new(Mutex::new(0_u32));
        let fails = Arc::clone(&failing);
        let model = FakeModel::random(VOCAB).hooked(move |rows| {
            let mut left = fails.lock().unwrap();
            if rows.len() > 1 && *left > 0 {
                *left -= 1;
                return Err(injected());
            }
            Ok(())
        });
        let mut world = World::with_limits(if fragile { model.fragile() } else { model }, limits);
        let (mut asked, mut cancelled) = (Vec::new(), BTreeSet::new());
        for event in events {
            match event {
                Some(Event::Ask(ask)) => {
                    world.ask(asked.len() as u64, ask.clone());
                    asked.push(ask);
                }
                Some(Event::Cancel(which)) if !asked.is_empty() => {
                    let id = which.index(asked.len()) as u64;
                    world.cancel(id);
                    cancelled.insert(id);
                }
                Some(Event::Credit(which, chunks)) if !asked.is_empty() => {
                    world.credit(which.index(asked.len()) as u64, chunks);
                }
                Some(Event::Fail) => *failing.lock().unwrap() += 2,
                _ => drop(world.turn()),
            }
        }
        for id in 0..asked.len() as u64 {
            world.credit(id, 100);
        }
        prop_assert_eq!(world.settle(), Turn::Idle);
        prop_assert!(world.requests.is_empty());
        let mut streams = world.reports.streams();
        for (ask, id) in asked.iter().zip(0..) {
            let (stream, alone) = (streams.remove(&id).unwrap_or_default(), alone(ask));
            if cancelled.contains(&id) && stream.end.is_none() {
                prop_assert!(alone.text.starts_with(&stream.text) && alone.tokens.starts_with(&stream.tokens));
            } else {
                prop_assert_eq!(stream, alone);
            }
        }
        prop_assert!(streams.is_empty());
    }
}
