//! Steps that fail: which sequences end, and which go on.

use super::{super::step::FAILED_STEPS, *};
use crate::testing::injected;

/// In no prompt but those that the model fails on.
const POISON: u32 = 25;

fn poisoned(rows: &[Vec<u32>]) -> bool {
    rows.iter().any(|row| row.contains(&POISON))
}

/// What becomes of four requests, of which the middle ones can't be computed.
fn streams(model: FakeModel) -> Vec<Stream> {
    let mut world = World::new(model);
    let prompts = [vec![1, 2, 3], vec![9, POISON], vec![7, 7, 7, 7, 7, POISON, 7], vec![4; 9]];
    for (prompt, id) in prompts.into_iter().zip(0..) {
        world.ask(id, Ask { prompt, ..Ask::default() });
    }
    world.settle();
    assert!(world.requests.is_empty());
    world.reports.streams().into_values().collect()
}

#[test]
fn a_row_on_which_the_model_fails_ends_its_own_stream() {
    let model = || FakeModel::random(POISON);
    let fails = |rows: &[Vec<u32>]| if poisoned(rows) { Err(injected()) } else { Ok(()) };
    let expected: Vec<Stream> = [vec![1, 2, 3], vec![4; 9]]
        .into_iter()
        .map(|prompt| {
            let mut world = World::new(model());
            world.ask(0, Ask { prompt, ..Ask::default() });
            world.settle();
            world.stream(0)
        })
        .collect();
    // A vocabulary without the token refuses the row before anything is computed.
    let refused = streams(model());
    // A device fails on all rows together.
    let failed = streams(FakeModel::new(VOCAB, scripted()).hooked(move |rows| fails(rows)));
    for streams in [&refused, &failed] {
        assert_eq!((&streams[0], &streams[3]), (&expected[0], &expected[1]));
        assert!(streams[1].failure().starts_with("the model failed: ") && streams[1].tokens.is_empty());
        assert!(streams[2].failure().starts_with("the model failed: ") && streams[2].tokens.is_empty());
    }
}

/// Logits of [`FakeModel::random`] for all tokens but [`POISON`].
fn scripted() -> impl Fn(&[u32]) -> Vec<f32> {
    let model = FakeModel::random(POISON);
    move |tokens| {
        let mut logits = model.logits(tokens);
        logits.push(f32::NEG_INFINITY);
        logits
    }
}

#[test]
fn a_step_that_fails_only_as_a_whole_costs_nobody_anything() {
    let run = |most: usize| {
        let model = FakeModel::random(VOCAB)
            .hooked(move |rows| if rows.len() > most { Err(injected()) } else { Ok(()) });
        let mut world = World::new(model);
        for id in 0..4_u32 {
            let prompt = vec![id; 3 * id as usize + 1];
            world.ask(id.into(), Ask { prompt, credit: 3 + id, ..Ask::default() });
        }
        world.settle();
        (0..4).for_each(|id| world.credit(id, 10));
        world.settle();
        world.reports.streams()
    };
    let whole = run(4);
    assert!(whole.values().all(|stream| stream.tokens.len() == 5));
    assert_eq!(run(1), whole);
}

/// Many requests that fail one after the other are no sign of a broken device; a device that computes nothing is.
#[test]
fn the_engine_gives_up_only_if_nothing_can_be_computed() {
    let mut world =
        World::new(alphabet().hooked(|rows| if poisoned(rows) { Err(injected()) } else { Ok(()) }));
    for id in 0..3 * u64::from(FAILED_STEPS) {
        world.ask(id, Ask { prompt: vec![POISON], ..Ask::default() });
        assert_eq!(world.turn(), Turn::Stepped);
        assert!(world.stream(id).failure().contains("injected"));
    }

    let mut world = World::new(alphabet().hooked(|_| Err(injected())));
    for id in 0..u64::from(FAILED_STEPS) {
        world.ask(id, Ask::default());
        let last = id + 1 == u64::from(FAILED_STEPS);
        assert_eq!(world.engine.turn().is_err(), last, "{id}");
    }
}

#[test]
fn failed_steps_are_counted_in_a_row() {
    let mut calls = 0;
    let mut world = World::new(alphabet().hooked(move |_| {
        calls += 1;
        if calls % FAILED_STEPS == 0 { Ok(()) } else { Err(injected()) }
    }));
    for id in 0..4 * u64::from(FAILED_STEPS) {
        world.ask(id, Ask { max_tokens: 1, ..Ask::default() });
        assert!(world.engine.turn().is_ok());
    }
}

#[test]
fn a_tokenizer_that_fails_on_an_output_ends_its_stream() {
    let mut world = World::new(alphabet());
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Strip", "content": "c", "start": 0, "stop": 3},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []}});
    let sound =
        std::mem::replace(&mut world.tokenizer, Arc::new(Tokenizer::from_bytes(file.to_string()).unwrap()));
    world.ask(1, Ask { prompt: vec![1], ..Ask::default() });
    world.tokenizer = sound;
    world.ask(2, Ask { prompt: vec![1], ..Ask::default() });
    world.settle();
    assert!(world.stream(1).failure().starts_with("the tokenizer failed on the output"));
    assert_eq!(world.stream(2).text, "cdefg");
    assert!(world.requests.is_empty());
}
