//! Sequences that begin with the same tokens.

use protocol::message::Usage;

use super::*;

const KEEPING: Limits = Limits { keep_prefixes: true, ..LIMITS };

/// A model whose sequences share memory in units of four tokens, behind an engine that keeps prefixes.
fn world(limits: Limits) -> World {
    World::with_limits(FakeModel::random(VOCAB).sharing(4), limits)
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|n| n * 7 % VOCAB).collect()
}

fn usage(world: &World, id: u64) -> Usage {
    match world.stream(id).end {
        Some(StreamEventKind::Finished { usage, .. }) => usage,
        other => panic!("not finished: {other:?}"),
    }
}

/// Tokens that were computed in all steps.
fn computed(world: &World) -> usize {
    world.steps().iter().flatten().sum()
}

#[test]
fn a_prompt_that_comes_again_is_not_computed_again() {
    let mut world = world(KEEPING);
    world.ask(1, Ask { prompt: prompt(21), max_tokens: 3, ..Ask::default() });
    world.settle();
    let first = computed(&world);
    world.ask(2, Ask { prompt: prompt(21), max_tokens: 3, ..Ask::default() });
    world.settle();
    assert_eq!((world.stream(1).text, usage(&world, 1).cached_tokens), (world.stream(2).text, 0));
    // Whole units of the prompt and the output: 24 of the 23 whose keys and values there are.
    assert_eq!((usage(&world, 2).cached_tokens, computed(&world) - first), (20, 1 + 2));
    world.assert_empty();
}

#[test]
fn the_next_turn_of_a_conversation_begins_behind_the_last() {
    let mut world = world(KEEPING);
    world.ask(1, Ask { prompt: prompt(10), max_tokens: 8, ..Ask::default() });
    world.settle();
    let mut next = prompt(10);
    next.extend(world.stream(1).tokens);
    next.extend([3, 3, 3]);
    world.ask(2, Ask { prompt: next, max_tokens: 1, ..Ask::default() });
    world.settle();
    // The last token of the output was never computed; 17 were, in four whole units.
    assert_eq!(
        usage(&world, 2),
        Usage { prompt_tokens: 21, completion_tokens: 1, cached_tokens: 16, ..Usage::default() }
    );
}

#[test]
fn requests_that_come_together_compute_what_they_have_in_common_once() {
    let mut world = world(KEEPING);
    for id in 0..4 {
        let mut prompt = prompt(40);
        prompt.push(id as u32);
        world.ask(id, Ask { prompt, max_tokens: 1, ..Ask::default() });
    }
    world.settle();
    assert_eq!(computed(&world), 41 + 3);
    assert_eq!([0, 1, 2, 3].map(|id| usage(&world, id).cached_tokens), [0, 40, 40, 40]);
    world.assert_empty();
}

#[test]
fn a_request_that_is_cancelled_leaves_what_it_has_computed() {
    let mut world = world(KEEPING);
    world.ask(1, Ask { prompt: prompt(20), ..Ask::default() });
    for _ in 0..2 {
        world.turn();
    }
    world.cancel(1);
    world.settle();
    world.ask(2, Ask { prompt: prompt(20), max_tokens: 1, ..Ask::default() });
    world.settle();
    assert_eq!(usage(&world, 2).cached_tokens, 8);
}

#[test]
fn what_is_kept_takes_no_memory_that_sequences_need() {
    let mut world = world(Limits { kv_tokens: 48, ..KEEPING });
    for id in 0..20 {
        let mut prompt = prompt(30);
        prompt[0] = id as u32;
        world.ask(id, Ask { prompt, max_tokens: 5, ..Ask::default() });
        world.settle();
        assert_eq!(usage(&world, id).completion_tokens, 5);
        assert!(world.engine.kept.held_tokens() <= 48);
    }
    world.assert_empty();
}

#[test]
fn nothing_is_kept_where_it_is_not_wanted() {
    let mut world = world(LIMITS);
    for id in [1, 2] {
        world.ask(id, Ask { prompt: prompt(20), max_tokens: 1, ..Ask::default() });
        world.settle();
        assert_eq!((usage(&world, id).cached_tokens, world.engine.kept.held_tokens()), (0, 0));
    }
}

#[test]
fn a_long_answer_that_is_used_for_its_beginning_is_in_nobodys_way() {
    let mut world = world(Limits { kv_tokens: 64, ..KEEPING });
    world.ask(1, Ask { prompt: prompt(10), max_tokens: 50, ..Ask::default() });
    world.settle();
    let mut other = prompt(9);
    other.extend([3; 50]);
    world.ask(2, Ask { prompt: other, max_tokens: 2, ..Ask::default() });
    assert_eq!(world.settle(), Turn::Idle);
    assert_eq!(usage(&world, 2).completion_tokens, 2);
    world.assert_empty();
}

#[test]
fn cached_tokens_are_those_with_which_it_began() {
    let mut world = world(Limits { max_num_seqs: 1, ..KEEPING });
    // The second is looked at before the first has left anything.
    for id in [1, 2] {
        world.ask(id, Ask { prompt: prompt(21), max_tokens: 3, ..Ask::default() });
    }
    world.settle();
    assert_eq!([1, 2].map(|id| usage(&world, id).cached_tokens), [0, 20]);
}
