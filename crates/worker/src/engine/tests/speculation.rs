//! Guesses: fewer steps, the same tokens.

use super::*;

const GUESSING: Limits = Limits { max_draft_tokens: 4, ..LIMITS };

/// A stream of `max_tokens`, and the tokens of each step's rows.
fn serve(model: FakeModel, limits: Limits, prompt: &[u32], max_tokens: usize) -> (Stream, Vec<Vec<usize>>) {
    let mut world = World::with_limits(model, limits);
    // Each token that was guessed is as likely as it would have been.
    let sampling = Sampling { logprobs: Some(2), ..Sampling::default() };
    world.ask(0, Ask { prompt: prompt.to_vec(), max_tokens, credit: 100, sampling, ..Ask::default() });
    assert_eq!(world.settle(), Turn::Idle);
    world.assert_empty();
    (world.stream(0), world.steps())
}

fn usage(stream: &Stream) -> Usage {
    match stream.end {
        Some(StreamEventKind::Finished { usage, .. }) => usage,
        _ => Usage::default(),
    }
}

#[test]
fn what_repeats_itself_takes_fewer_steps() {
    // 26 letters, over and over.
    let (plain, steps) = serve(alphabet(), LIMITS, &[0], 100);
    assert_eq!((steps.len(), plain.chunks), (100, 100));
    let (guessed, steps) = serve(alphabet(), GUESSING, &[0], 100);
    assert!(steps.len() < 60 && guessed.chunks == steps.len(), "{} steps", steps.len());
    let used = usage(&guessed);
    assert!(
        used.accepted_tokens as usize == 100 - steps.len() && used.drafted_tokens >= used.accepted_tokens
    );
    assert_eq!(guessed.like_alone(plain.chunks), plain);
    assert!(steps.iter().all(|rows| rows[0] <= 1 + GUESSING.max_draft_tokens));
}

#[test]
fn a_wrong_guess_costs_nothing_but_its_row() {
    // What followed the first time does not follow the second time.
    let model = || {
        FakeModel::next(VOCAB, |tokens| match tokens.len() {
            len @ 0..10 => (len as u32) % 5,
            len => (len as u32 * 7) % VOCAB,
        })
    };
    let prompt = [0, 1, 2, 3, 4, 0, 1];
    let (plain, _) = serve(model(), LIMITS, &prompt, 8);
    let (guessed, _) = serve(model(), GUESSING, &prompt, 8);
    let used = usage(&guessed);
    assert!(used.drafted_tokens > used.accepted_tokens, "{used:?}");
    assert_eq!(guessed.like_alone(plain.chunks), plain);
}

/// Nothing that was computed behind the end is kept, or counted.
#[test]
fn an_end_within_a_guess_ends_the_stream_there() {
    let mut world = World::with_limits(alphabet(), Limits { keep_prefixes: true, ..GUESSING });
    let prompt: Vec<u32> = (0..60).map(|n| n % VOCAB).collect();
    for (id, max_tokens) in (0..).zip(1..12) {
        let ask = Ask { prompt: prompt.clone(), max_tokens, credit: 100, ..Ask::default() };
        world.ask(2 * id, ask.clone());
        world.settle();
        let eos = vec![(60 + max_tokens as u32 - 1) % VOCAB];
        world.ask(2 * id + 1, Ask { eos, max_tokens: 100, ..ask });
        world.settle();
        for (id, reason) in [(2 * id, FinishReason::Length), (2 * id + 1, FinishReason::Stop)] {
            let stream = world.stream(id);
            let expected: Vec<u32> = (60..60 + max_tokens as u32).map(|n| n % VOCAB).collect();
            assert_eq!((stream.reason(), &stream.tokens), (Some(reason), &expected));
            assert_eq!(usage(&stream).completion_tokens as usize, max_tokens);
        }
    }
    world.assert_empty();
}

/// A full step has no rows for guesses, nor a full memory.
#[test]
fn guesses_take_no_room_that_others_need() {
    let prompt: Vec<u32> = (0..40).map(|n| n % VOCAB).collect();
    for (limits, most) in [
        (Limits { max_num_batched_tokens: 3, ..GUESSING }, 3),
        (Limits { kv_tokens: 61, ..GUESSING }, 5),
        (Limits { max_num_batched_tokens: 1, ..GUESSING }, 1),
    ] {
        let (stream, steps) = serve(alphabet(), limits, &prompt, 20);
        assert_eq!((stream.reason(), stream.tokens.len()), (Some(FinishReason::Length), 20));
        let decodes = &steps[prompt.len().div_ceil(limits.chunk_tokens)..];
        assert!(decodes.iter().all(|rows| rows.iter().sum::<usize>() <= most), "{decodes:?}");
    }
}
