//! A draft model: fewer steps, the same tokens, whatever it guesses and whatever becomes of it.

use super::*;
use crate::testing::injected;

const DRAFTING: Limits = Limits { max_draft_tokens: 4, ..LIMITS };
const ROOM: usize = 1000;

fn usage(stream: &Stream) -> Usage {
    match stream.end {
        Some(StreamEventKind::Finished { usage, .. }) => usage,
        _ => Usage::default(),
    }
}

/// Requests of some kinds: greedy and drawn, with and without what changes logits.
fn asks() -> Vec<Ask> {
    let ask = |seed: u64, temperature, repetition_penalty, prompt: u32| Ask {
        prompt: (0..prompt).map(|n| (n * n + seed as u32) % VOCAB).collect(),
        max_tokens: 30,
        credit: 100,
        sampling: Sampling { seed, temperature, repetition_penalty, ..Sampling::default() },
        ..Ask::default()
    };
    vec![
        ask(1, 0.0, 1.0, 3),
        ask(2, 0.8, 1.0, 9),
        ask(3, 0.8, 1.3, 1),
        ask(4, 0.0, 1.2, 14),
        ask(5, 1.5, 1.0, 6),
    ]
}

/// What the requests get from an engine, all at once.
fn serve(mut world: World, asks: &[Ask]) -> (Vec<Stream>, World) {
    for (ask, id) in asks.iter().zip(0..) {
        world.ask(id, ask.clone());
    }
    assert_eq!(world.settle(), Turn::Idle);
    world.assert_empty();
    let streams = (0..asks.len() as u64).map(|id| world.stream(id)).collect();
    (streams, world)
}

/// The same streams as without drafts, but for how they came.
#[track_caller]
fn assert_same(found: Vec<Stream>, asks: &[Ask]) {
    let (plain, _) = serve(World::new(FakeModel::random(VOCAB)), asks);
    for (found, plain) in found.into_iter().zip(plain) {
        assert_eq!(found.like_alone(plain.chunks), plain);
    }
}

fn drafted_by(draft: FakeModel) -> World {
    World::with_limits(FakeModel::random(VOCAB), DRAFTING).drafted_by(draft, ROOM)
}

#[test]
fn a_model_that_drafts_for_itself_is_always_right() {
    for ask in asks().into_iter().filter(|ask| ask.sampling.repetition_penalty == 1.0) {
        let (streams, world) = serve(drafted_by(FakeModel::random(VOCAB)), std::slice::from_ref(&ask));
        let used = usage(&streams[0]);
        assert_eq!(used.drafted_tokens, used.accepted_tokens);
        let steps = world.steps().len() - ask.prompt.len().div_ceil(LIMITS.chunk_tokens);
        assert!(
            steps <= 30 / 4 && used.accepted_tokens as usize + steps + 1 == 30,
            "{steps} steps, {used:?}"
        );
        assert_same(streams, &[ask]);
    }
}

#[test]
fn all_of_a_batch_is_drafted_in_the_same_passes() {
    let draft = FakeModel::random(VOCAB);
    let passes = draft.steps();
    let (streams, world) = serve(drafted_by(draft), &asks());
    assert!(usage(&streams[1]).accepted_tokens > 15, "{:?}", usage(&streams[1]));
    assert_same(streams, &asks());
    let passes = passes.lock().unwrap();
    assert!(passes.iter().any(|rows| rows.len() == asks().len()));
    assert!(passes.len() <= 4 * world.steps().len(), "{} passes", passes.len());
}

#[test]
fn a_wrong_guess_changes_nothing() {
    let (always, one_in_three) = (|_: &[u32]| true, |tokens: &[u32]| tokens.len().is_multiple_of(3));
    let (streams, _) = serve(drafted_by(FakeModel::random(VOCAB).wrong_where(always)), &asks());
    let used = usage(&streams[0]);
    assert!(used.accepted_tokens < 5 && used.drafted_tokens < 15, "it is given up soon: {used:?}");
    assert_same(streams, &asks());
    let alone = || serve(drafted_by(FakeModel::random(VOCAB).wrong_where(one_in_three)), &asks()[..1]);
    let used = usage(&alone().0[0]);
    assert!(used.accepted_tokens > 12 && used.drafted_tokens > used.accepted_tokens, "{used:?}");
    let (streams, _) = serve(drafted_by(FakeModel::random(VOCAB).wrong_where(one_in_three)), &asks());
    assert_same(streams, &asks());
    let (streams, _) = serve(drafted_by(FakeModel::random_after(VOCAB, 1)), &asks());
    assert_same(streams, &asks());
}

/// It is computed in parts, while the sequence goes on.
#[test]
fn a_long_prompt_stops_nobody() {
    let limits = Limits { chunk_tokens: 50, max_num_batched_tokens: 60, kv_tokens: 500, ..DRAFTING };
    let draft = FakeModel::random(VOCAB);
    let passes = draft.steps();
    let world = World::with_limits(FakeModel::random(VOCAB), limits).drafted_by(draft, ROOM);
    let ask = Ask {
        prompt: (0..200).map(|n| n * n % VOCAB).collect(),
        max_tokens: 60,
        credit: 100,
        ..Ask::default()
    };
    let (streams, world) = serve(world, std::slice::from_ref(&ask));
    let longest = passes.lock().unwrap().iter().flatten().copied().max();
    assert_eq!(longest, Some(32));
    let alone = world.steps().iter().filter(|rows| rows[..] == [1]).count();
    assert!((5..9).contains(&alone), "{alone} steps before the draft model had all of it");
    assert!(usage(&streams[0]).accepted_tokens > 30);
    assert_same(streams, &[ask]);
}

/// Of a long prompt that little is to follow, it computes nothing.
#[test]
fn a_short_answer_to_a_long_prompt_is_not_drafted() {
    let draft = FakeModel::random(VOCAB);
    let passes = draft.steps();
    let world = World::with_limits(FakeModel::random(VOCAB), DRAFTING).drafted_by(draft, ROOM);
    let ask = Ask { prompt: (0..100).map(|n| n * n % VOCAB).collect(), max_tokens: 5, ..Ask::default() };
    serve(world, &[ask]);
    assert_eq!(passes.lock().unwrap().len(), 0);
}

/// Nor does it keep such a sequence from guesses of what repeats.
#[test]
fn what_repeats_is_guessed_where_the_draft_model_is_not_worth_it() {
    let draft = FakeModel::random_after(VOCAB, 1);
    let passes = draft.steps();
    let limits = Limits { kv_tokens: 600, ..DRAFTING };
    let world = World::with_limits(FakeModel::random_after(VOCAB, 1), limits).drafted_by(draft, ROOM);
    let ask = Ask {
        prompt: (0..400).map(|n| n * n % VOCAB).collect(),
        max_tokens: 40,
        credit: 100,
        ..Ask::default()
    };
    let (streams, _) = serve(world, &[ask]);
    assert_eq!(passes.lock().unwrap().len(), 0);
    assert!(usage(&streams[0]).accepted_tokens > 10, "{:?}", usage(&streams[0]));
}

#[test]
fn a_draft_model_that_fails_fails_nothing_else() {
    let mut passes = 0;
    let draft = FakeModel::random(VOCAB).hooked(move |_| {
        passes += 1;
        if passes == 3 { Err(injected()) } else { Ok(()) }
    });
    let (streams, mut world) = serve(drafted_by(draft), &asks());
    assert_same(streams, &asks());
    // Those that come later are drafted again.
    world.ask(9, asks().remove(0));
    world.settle();
    assert!(usage(&world.stream(9)).accepted_tokens > 15);
}

#[test]
fn a_draft_model_that_always_fails_is_not_asked_for_ever() {
    let draft = FakeModel::random(VOCAB).hooked(|_| Err(injected()));
    let passes = draft.steps();
    let mut world = drafted_by(draft);
    for id in 0..20 {
        world.ask(id, asks().remove(0));
        world.settle();
        assert_eq!(world.stream(id).reason(), Some(FinishReason::Length));
    }
    assert_eq!(passes.lock().unwrap().len(), 5);
}

/// Neither is given a token that only the other one has.
#[test]
fn tokens_of_one_vocabulary_alone_do_no_harm() {
    let world = drafted_by(FakeModel::random(VOCAB - 3));
    let (streams, _) = serve(world, &asks());
    assert_same(streams, &asks());
    let world = World::with_limits(FakeModel::random(VOCAB), DRAFTING);
    let size = DraftSize { kv_tokens: ROOM, context_length: 12, vocab_size: VOCAB as usize };
    // Nor is it asked for more than its context has.
    let draft = FakeModel::random(VOCAB + 3).hooked(|rows| {
        assert!(rows.iter().all(|row| row.len() <= 12));
        Ok(())
    });
    let draft = DraftModel::new(draft, size, DRAFTING, Costs::fixed(0.05));
    let world = World { engine: world.engine.with_draft_model(draft), ..world };
    let (streams, _) = serve(world, &asks());
    assert!(usage(&streams[2]).drafted_tokens > 0);
    assert_same(streams, &asks());
}

#[test]
fn memory_that_is_short_is_the_first_ones() {
    // Two sequences of the five.
    let world =
        World::with_limits(FakeModel::random(VOCAB), DRAFTING).drafted_by(FakeModel::random(VOCAB), 75);
    let (streams, _) = serve(world, &asks());
    assert!(usage(&streams[0]).accepted_tokens > 15, "{:?}", usage(&streams[0]));
    assert_same(streams, &asks());
}

#[test]
fn memory_goes_with_its_sequence_and_to_others_while_it_waits() {
    let mut world =
        World::with_limits(FakeModel::random(VOCAB), DRAFTING).drafted_by(FakeModel::random(VOCAB), 60);
    let ask =
        Ask { prompt: (0..30).map(|n| n * n % VOCAB).collect(), max_tokens: 30, credit: 3, ..Ask::default() };
    world.ask(0, ask.clone());
    world.settle();
    assert_eq!(world.drafted().len(), 1, "a sequence that waits for credit keeps it");
    world.ask(1, Ask { credit: 2, ..ask.clone() });
    world.settle();
    assert_eq!(world.drafted().len(), 1, "until another one needs it");
    world.credit(0, 100);
    world.settle();
    assert_eq!(world.stream(0).reason(), Some(FinishReason::Length));
    world.cancel(1);
    world.settle();
    assert!(world.drafted().is_empty());
    world.assert_empty();
}

/// A sequence whose memory is taken is computed again, by both models.
#[test]
fn preempted_sequences_go_on() {
    for kv_tokens in [50, 60, 80, 110] {
        let limits = Limits { kv_tokens, ..DRAFTING };
        let draft = FakeModel::random(VOCAB).wrong_where(|tokens| tokens.len().is_multiple_of(5));
        let world = World::with_limits(FakeModel::random(VOCAB), limits).drafted_by(draft, kv_tokens);
        let (streams, _) = serve(world, &asks());
        assert_same(streams, &asks());
    }
}

/// What another worker has generated is drafted on.
#[test]
fn a_resumed_sequence_is_drafted() {
    let ask = asks().remove(1);
    let (plain, _) = serve(World::new(FakeModel::random(VOCAB)), std::slice::from_ref(&ask));
    let mut world = drafted_by(FakeModel::random(VOCAB));
    world.ask_resumed(0, ask, &plain[0].tokens[..10]).unwrap();
    world.settle();
    let stream = world.stream(0);
    assert_eq!(stream.tokens, plain[0].tokens[10..]);
    assert!(usage(&stream).accepted_tokens > 10);
}

/// What a conversation has in common with its next turn is not computed again, nor what two requests have.
#[test]
fn a_draft_model_goes_on_behind_what_it_has_kept() {
    let limits = Limits { keep_prefixes: true, ..DRAFTING };
    let draft = FakeModel::random(VOCAB).sharing(4);
    let passes = draft.steps();
    let model = FakeModel::random(VOCAB).sharing(4);
    let mut world = World::with_limits(model, limits).drafted_by(draft, ROOM);
    let mut prompt: Vec<u32> = (0..40).map(|n| n * n % VOCAB).collect();
    for turn in 0..3 {
        let ask = Ask { prompt: prompt.clone(), max_tokens: 20, credit: 100, ..Ask::default() };
        world.ask(turn, ask);
        world.settle();
        let (stream, computed) =
            (world.stream(turn), passes.lock().unwrap().drain(..).flatten().sum::<usize>());
        let used = usage(&stream);
        assert!(used.drafted_tokens > 5 && used.drafted_tokens == used.accepted_tokens, "{used:?}");
        // A prompt of 40, then of 62 and 84 tokens, and some twenty behind it.
        assert!(if turn == 0 { computed > 40 } else { computed < 35 }, "{computed} tokens in turn {turn}");
        prompt.extend(stream.tokens);
        prompt.extend([7, turn as u32]);
    }
    world.assert_empty();
}
