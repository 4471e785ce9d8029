//! Anything at any time: every stream is what it would be alone, and ends exactly once.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::*;
use crate::testing::{Failing, injected};

/// What happens between two steps.
#[derive(Clone, Debug)]
enum Event {
    Ask(Ask),
    Cancel(Index),
    Credit(Index, u32),
    /// The next steps of more than one row fail.
    Fail,
}

/// Some begin with the same tokens: up to `common` of them.
fn ask(common: usize) -> impl Strategy<Value = Ask> {
    let sampling = (
        any::<u64>(),
        prop_oneof![Just(0.0_f32), Just(0.8)],
        prop_oneof![Just(1.0_f32), Just(1.3)],
        option::of(0..4_u8),
    );
    let prompt = (0..=common, vec(0..VOCAB, 1..14))
        .prop_map(|(common, own)| (0..common as u32).map(|n| n * n % VOCAB).chain(own).collect());
    (prompt, 1..12_usize, 0..6_u32, vec("[a-z]{1,2}", 0..3), vec(0..VOCAB, 0..3), sampling).prop_map(
        |(prompt, max_tokens, credit, stop, eos, (seed, temperature, repetition_penalty, logprobs))| {
            let sampling =
                Sampling { seed, temperature, repetition_penalty, logprobs, ..Sampling::default() };
            Ask { prompt, max_tokens, credit, stop, eos, sampling }
        },
    )
}

fn event(common: usize) -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => ask(common).prop_map(Event::Ask),
        1 => any::<Index>().prop_map(Event::Cancel),
        3 => (any::<Index>(), 1..5_u32).prop_map(|(which, chunks)| Event::Credit(which, chunks)),
        1 => Just(Event::Fail),
    ]
}

/// A draft model.
#[derive(Clone, Debug)]
struct Draft {
    /// Each time that the tokens are a multiple of so many, its guess is another one.
    wrong: usize,
    /// One of so many passes fails.
    fails: usize,
    vocab: u32,
    kv_tokens: usize,
}

fn draft() -> impl Strategy<Value = Draft> {
    let fails = prop_oneof![3 => Just(usize::MAX), 1 => 1..9_usize];
    (1..6_usize, fails, VOCAB - 2..VOCAB + 2, 0..200_usize)
        .prop_map(|(wrong, fails, vocab, kv_tokens)| Draft { wrong, fails, vocab, kv_tokens })
}

impl Draft {
    /// It knows what depends on the last `memory` tokens.
    fn model(&self, memory: usize) -> FakeModel {
        let (wrong, fails, mut passes) = (self.wrong, self.fails, 0_usize);
        FakeModel::random_after(self.vocab, memory)
            .wrong_where(move |tokens| wrong > 1 && tokens.len().is_multiple_of(wrong))
            .hooked(move |_| {
                passes += 1;
                if passes.is_multiple_of(fails) { Err(injected()) } else { Ok(()) }
            })
    }
}

/// The stream of a request that is alone and never waits.
fn alone(ask: &Ask, memory: usize) -> Stream {
    let limits = Limits {
        max_held_seqs: usize::MAX,
        max_num_seqs: 1,
        chunk_tokens: 100,
        max_num_batched_tokens: 100,
        kv_tokens: 200,
        unit_tokens: 1,
        keep_prefixes: false,
        max_draft_tokens: 0,
        windows: None,
    };
    let mut world = World::with_limits(FakeModel::random_after(VOCAB, memory), limits);
    world.ask(0, Ask { credit: 100, ..ask.clone() });
    world.settle();
    world.stream(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_stream_is_what_it_would_be_alone_and_ends_exactly_once(
        // Behind a whole unit of memory, or more, or within it.
        (common, events) in prop_oneof![Just(0), Just(6), Just(70)]
            .prop_flat_map(|common| (Just(common), vec(option::weighted(0.6, event(common)), 1..60))),
        max_num_seqs in 1..7_usize,
        kv_tokens in 30..90_usize,
        shared_block in 1..6_usize,
        keep_prefixes: bool,
        threads in 1..4_usize,
        max_draft_tokens in prop_oneof![Just(0), 1..7_usize],
        launching in option::of(prop_oneof![Just(Failing::AtOnce), Just(Failing::WhenRead)]),
        // With a short one, outputs repeat themselves, and guesses are right.
        memory in prop_oneof![Just(usize::MAX), Just(1), Just(2)],
        draft in option::of(draft()),
    ) {
        let limits = Limits {
            max_held_seqs: usize::MAX,
            max_num_seqs,
            chunk_tokens: 4,
            max_num_batched_tokens: 9,
            kv_tokens: kv_tokens + common,
            unit_tokens: 1,
            keep_prefixes,
            max_draft_tokens,
            windows: None,
        };
        let failing = Arc::new(Mutex::new(0_u32));
        let fails = Arc::clone(&failing);
        let model = FakeModel::random_after(VOCAB, memory)
            .sharing(shared_block)
            .on_threads(threads)
            .launching(launching)
            .hooked(move |rows| {
            let mut left = fails.lock().unwrap();
            if rows.len() > 1 && *left > 0 {
                *left -= 1;
                return Err(injected());
            }
            Ok(())
        });
        let mut world = World::with_limits(model, limits);
        if let Some(draft) = draft {
            world = world.drafted_by(draft.model(memory).sharing(shared_block), draft.kv_tokens);
        }
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
        world.assert_empty();
        let mut streams = world.reports.streams();
        for (ask, id) in asked.iter().zip(0..) {
            let (stream, alone) = (streams.remove(&id).unwrap_or_default(), alone(ask, memory));
            if cancelled.contains(&id) && stream.end.is_none() {
                prop_assert!(alone.text.starts_with(&stream.text) && alone.tokens.starts_with(&stream.tokens));
            } else {
                prop_assert!(max_draft_tokens > 0 || stream.chunks == alone.chunks);
                prop_assert_eq!(stream.like_alone(alone.chunks), alone);
            }
        }
        prop_assert!(streams.is_empty());
    }
}

/// More of them than the property tries, and many at once: requests that are cancelled in every stage.
#[test]
fn ten_thousand_cancels_leave_nothing_behind() {
    let limits = Limits {
        max_held_seqs: usize::MAX,
        max_num_seqs: 6,
        chunk_tokens: 4,
        max_num_batched_tokens: 9,
        kv_tokens: 120,
        unit_tokens: 1,
        keep_prefixes: true,
        max_draft_tokens: 3,
        windows: None,
    };
    let mut world = World::with_limits(FakeModel::random(VOCAB), limits);
    let mut random = 1_u64;
    let mut below = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut open = BTreeSet::new();
    for id in 0..10_000 {
        let prompt = (0..=below(12)).map(|_| below(VOCAB.into()) as u32).collect();
        let (max_tokens, credit) = (1 + below(20) as usize, below(6) as u32);
        world.ask(id, Ask { prompt, max_tokens, credit, ..Ask::default() });
        open.insert(id);
        for _ in 0..below(3) {
            let _ = world.turn();
        }
        while open.len() > below(24) as usize {
            let which = below(open.len() as u64) as usize;
            let Some(&id) = open.iter().nth(which) else { break };
            open.remove(&id);
            world.cancel(id);
        }
    }
    open.into_iter().for_each(|id| world.cancel(id));
    assert_eq!(world.settle(), Turn::Idle);
    world.assert_empty();
    // Nothing came behind a terminal event, which this checks.
    let ended = world.reports.streams().values().filter(|stream| stream.end.is_some()).count();
    assert!((100..9_900).contains(&ended), "{ended} ended by themselves");
}
