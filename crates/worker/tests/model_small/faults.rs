//! The engine over a model that fails: who is hurt, and who is not.

use protocol::message::StreamEventKind;
use worker::model::StepInput;

use super::{
    on::{On, on_every_backend},
    served::{LIMITS, Stream, finished, serve},
    tiny::Float,
};

/// In no prompt but those that the model fails on.
const POISON: u32 = 100;

fn failed(stream: &Stream, message: &str) -> bool {
    matches!(&stream.1, Some(StreamEventKind::Failed(failure)) if failure.message.contains(message))
}

const LONG: [u32; 40] = [7; 40];

/// Both end as they should, and with the same tokens, where a batch's size can't turn the choice between two of them: in
/// float32.
#[track_caller]
fn alike(on: On, found: [&Stream; 2], expected: [&Stream; 2]) {
    assert!(found.into_iter().chain(expected).all(finished), "{found:?}");
    if on.float.is_none_or(|float| float == Float::F32) {
        assert_eq!(found, expected, "{on:?}");
    }
}

fn a_token_that_the_model_does_not_have_ends_its_own_stream(on: On) {
    let (result, alone) = serve(on, LIMITS, &[&[1, 2, 3], &LONG], |_| false);
    assert!(result.is_ok() && alone.values().all(finished), "{alone:?}");
    let (result, beside) = serve(on, LIMITS, &[&[1, 2, 3], &LONG, &[5, 101], &[4_000_000_000]], |_| false);
    assert!(result.is_ok());
    alike(on, [&beside[&0], &beside[&1]], [&alone[&0], &alone[&1]]);
    for id in [2, 3] {
        assert!(failed(&beside[&id], "vocabulary has 101"), "{:?}", beside[&id]);
    }
}

fn a_row_on_which_the_model_fails_ends_its_own_stream(on: On) {
    let poisoned = |input: &StepInput<'_>| input.rows.iter().any(|row| row.tokens.contains(&POISON));
    let (_, alone) = serve(on, LIMITS, &[&[1, 2, 3], &LONG], |_| false);
    let mut prompt = LONG;
    prompt[30] = POISON;
    let (result, beside) = serve(on, LIMITS, &[&[1, 2, 3], &LONG, &[9, POISON], &prompt], poisoned);
    assert!(result.is_ok());
    alike(on, [&beside[&0], &beside[&1]], [&alone[&0], &alone[&1]]);
    for id in [2, 3] {
        assert!(failed(&beside[&id], "injected"), "{:?}", beside[&id]);
    }
}

fn a_step_that_fails_only_as_a_whole_costs_nobody_anything(on: On) {
    let (_, alone) = serve(on, LIMITS, &[&[1, 2, 3], &LONG], |_| false);
    let (result, together) = serve(on, LIMITS, &[&[1, 2, 3], &LONG], |input| input.rows.len() > 1);
    assert!(result.is_ok());
    alike(on, [&together[&0], &together[&1]], [&alone[&0], &alone[&1]]);
}

/// Many requests that fail one after the other are no sign of a broken device; a device that computes nothing is.
fn the_engine_ends_only_if_nothing_can_be_computed(on: On) {
    let prompts = [[9, POISON]; 60];
    let prompts: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[..]).collect();
    let (result, outcome) =
        serve(on, LIMITS, &prompts, |input| input.rows.iter().any(|row| row.tokens.contains(&POISON)));
    assert!(result.is_ok() && outcome.values().all(|stream| failed(stream, "injected")));

    let prompts = [[1; 60]; 60];
    let prompts: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[..]).collect();
    let (result, outcome) = serve(on, LIMITS, &prompts, |_| true);
    assert!(result.is_err());
    assert!(outcome.len() < prompts.len(), "the rest is for another process");
}

on_every_backend![
    a_token_that_the_model_does_not_have_ends_its_own_stream,
    a_row_on_which_the_model_fails_ends_its_own_stream,
    a_step_that_fails_only_as_a_whole_costs_nobody_anything,
    the_engine_ends_only_if_nothing_can_be_computed,
];
