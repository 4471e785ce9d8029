//! Models whose layers keep states beside keys and values: these outlive preemption and the sequences that computed them.

use std::cell::Cell;

use worker::{
    cache::{BLOCK_TOKENS, Fork},
    model::{ModelError, StepInput, StepRow},
    schedule::Limits,
};

use super::{
    Loaded, batches, forward,
    on::{On, alone, on_every_backend},
    prefixes::cached,
    recorded,
    served::{LIMITS, Outcome, finished, serve_adapted, serve_by},
    tiny::{Float, SplitMix},
};

/// Short convolutions and gated delta nets, with experts and without.
const MODELS: [&str; 4] = ["lfm2", "lfm2_moe", "qwen3_5", "qwen3_next"];

/// One of each kind, with weights of 4 bits.
fn each(on: On, check: impl Fn(&dyn Fn() -> Loaded)) {
    let recorded = recorded::committed();
    for name in MODELS {
        let model = &recorded[name][0];
        check(&|| model.load(&model.runs[usize::from(is_float32(on))], on));
    }
}

/// Half precision rounds scales, too, so that quantized weights would be others. A batch's size, or where a chunk is cut, can
/// turn the choice between two tokens there.
pub(crate) fn is_float32(on: On) -> bool {
    on.float.is_none_or(|float| float == Float::F32)
}

fn tokens(loaded: Loaded, limits: Limits, prompts: &[&[u32]]) -> (Vec<Vec<u32>>, Vec<u32>) {
    let limits = Limits { max_held_seqs: limits.max_num_seqs + 1, ..limits };
    let (result, streams): (_, Outcome) = serve_by(loaded, limits, prompts, |_| false);
    assert!(result.is_ok() && streams.values().all(finished), "{streams:?}");
    let cached = streams.values().map(cached).collect();
    (streams.into_values().map(|stream| stream.0).collect(), cached)
}

/// What is served together, or one by one, with and without prefixes, with hardly enough memory so that some are preempted,
/// gets the same tokens.
fn a_crowd_gets_the_tokens_that_each_gets_alone(on: On) {
    let prompts = batches::prompts();
    // The last two share their first two blocks.
    let memory = prompts.iter().map(|prompt| prompt.len() + 1).sum::<usize>() - 2 * BLOCK_TOKENS;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    each(on, |load| {
        let (alone, _) = tokens(load(), Limits { max_num_seqs: 1, ..LIMITS }, &prompts);
        let agrees = |found: Vec<Vec<u32>>, limits: Limits| {
            if is_float32(on) {
                assert_eq!(found, alone, "{limits:?} on {on:?}");
            }
        };
        for limits in [LIMITS, Limits { max_num_batched_tokens: 1000, chunk_tokens: 50, ..LIMITS }] {
            agrees(tokens(load(), limits, &prompts).0, limits);
        }
        // All prompts are computed at once, and then there is room for one more token of each.
        let short = Limits { kv_tokens: memory, chunk_tokens: 200, max_num_batched_tokens: 1000, ..LIMITS };
        let short = Limits { max_held_seqs: short.max_num_seqs + 1, keep_prefixes: true, ..short };
        let (streams, preemptions) = serve_adapted(load(), short, &prompts, &[]);
        assert!(preemptions > 0, "some had to wait for memory");
        agrees(streams.into_values().map(|stream| stream.0).collect(), short);
    });
}

/// A prompt that begins like an earlier one goes on from a state that this has left.
fn sequences_go_on_from_the_states_of_others(on: On) {
    let mut random = SplitMix(77);
    let base = random.tokens(230, 100);
    let prompt = |common: usize, own: usize, random: &mut SplitMix| {
        [&base[..common], &random.tokens(own, 100)[..]].concat()
    };
    let lens = [(230, 0), (230, 0), (230, 5), (180, 20), (180, 20), (180, 30), (20, 40)];
    let prompts = lens.map(|(common, own)| prompt(common, own, &mut random));
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let limits = Limits { max_num_seqs: 1, chunk_tokens: 64, keep_prefixes: true, ..LIMITS };
    each(on, |load| {
        let (kept, found) = tokens(load(), limits, &prompts);
        let (apart, none) = tokens(load(), Limits { keep_prefixes: false, ..limits }, &prompts);
        assert_eq!(none, [0; 7]);
        if is_float32(on) {
            assert_eq!(kept, apart, "{on:?}");
        }
        assert!(found.iter().all(|len| len.is_multiple_of(32)), "{found:?}");
        // Up to the last whole block of the same prompt, and where the chunk that differs began, or nearer.
        assert_eq!((found[0], found[1], found[2]), (0, 224, 224), "{on:?}");
        assert!((128..=160).contains(&found[3]), "{found:?}");
        // Where two have parted, the next one goes on.
        assert_eq!((found[5], found[6]), (160, 0), "{found:?}");
    });
}

/// A state that a step has written is not taken for that of before when the step is computed again.
fn steps_that_fail_change_no_state(on: On) {
    let prompts = batches::prompts();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    each(on, |load| {
        let (expected, _) = tokens(load(), LIMITS, &prompts);
        let calls = Cell::new(0);
        // Only steps of several rows: these are tried one by one.
        let fails = move |input: &StepInput<'_>| {
            calls.set(calls.get() + 1);
            input.rows.len() > 1 && u32::is_multiple_of(calls.get(), 3)
        };
        let (result, streams) = serve_by(load(), LIMITS, &prompts, fails);
        assert!(result.is_ok() && streams.values().all(finished), "{streams:?}");
        if is_float32(on) {
            assert_eq!(streams.into_values().map(|stream| stream.0).collect::<Vec<_>>(), expected);
        }
    });
}

/// Bit for bit where that is promised: in pieces, from a snapshot, and as a worker computes it that was told what another one
/// has generated.
fn whoever_goes_on_gets_the_same_bits(on: On) {
    each(on, |load| {
        let Loaded { model, .. } = &load();
        if !model.is_invariant() {
            return;
        }
        let text = SplitMix(5).tokens(150, 100);
        let mut kv = model.new_kv();
        alone(model, &mut kv, &text[..100]);
        let mut fork = kv.resume(96).unwrap();
        assert!(kv.resume(95).is_none() && kv.fork_point(99) == 96);
        let one_by_one = text[100..].iter().map(|&token| alone(model, &mut kv, &[token])).last().unwrap();
        let at_once = alone(model, &mut model.new_kv(), &text);
        let mut other = model.new_kv();
        let rows: Vec<(_, &[u32])> = vec![(&mut fork, &text[96..]), (&mut other, &text[7..50])];
        let from_snapshot = forward(model, rows).remove(0);
        for found in [one_by_one, from_snapshot] {
            let differs = found.iter().zip(&at_once).position(|(f, e)| f.to_bits() != e.to_bits());
            assert_eq!(differs, None, "{on:?}");
        }
    });
}

/// A sequence that was cut where no state is kept can't go on, and says so. What was in use is given back.
fn a_sequence_without_a_state_does_not_go_on(on: On) {
    each(on, |load| {
        let Loaded { model, .. } = &load();
        let in_use = model.kv_in_use();
        let mut kv = model.new_kv();
        alone(model, &mut kv, &SplitMix(6).tokens(70, 100));
        kv.truncate(64);
        alone(model, &mut kv, &[1]);
        kv.truncate(50);
        let rows = vec![StepRow::last_logits(&[1], &mut kv)];
        let error = model.forward(&mut StepInput { rows }).unwrap_err();
        assert!(matches!(error, ModelError::Kv(_)), "{error}");
        assert!(error.to_string().contains("no state behind the first 50 tokens"), "{error}");
        assert!(in_use() > 0);
        drop(kv);
        assert_eq!(in_use(), 0);
    });
}

/// What of speculation and launching would need states that are not kept is off.
fn what_would_have_to_be_taken_back_is_not_tried(on: On) {
    each(on, |load| {
        let Loaded { model, .. } = &load();
        assert!(model.has_states() && !model.checks_drafts() && !model.launches());
        assert_eq!(model.kv_sequences(), super::BUDGET.sequences);
    });
}

on_every_backend![
    a_crowd_gets_the_tokens_that_each_gets_alone,
    sequences_go_on_from_the_states_of_others,
    steps_that_fail_change_no_state,
    whoever_goes_on_gets_the_same_bits,
    a_sequence_without_a_state_does_not_go_on,
    what_would_have_to_be_taken_back_is_not_tried,
];
