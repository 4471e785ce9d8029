//! Models whose layers have other heads than each other, and some of which borrow keys and values.

use std::cell::Cell;

use worker::schedule::Limits;

use super::{
    Loaded, batches,
    drafts::guesses,
    hybrid::is_float32,
    on::{On, on_every_backend},
    prefixes::cached,
    recorded,
    served::{LIMITS, Outcome, finished, serve_by},
};

/// Layers that borrow, and experts; the outputs of the latter repeat themselves.
const MODELS: [(&str, usize); 2] = [("gemma4_text", 0), ("gemma4_text", 1)];

fn each(on: On, check: impl Fn(&dyn Fn() -> Loaded)) {
    let recorded = recorded::committed();
    for (name, index) in MODELS {
        let model = &recorded[name][index];
        check(&|| model.load(&model.runs[usize::from(is_float32(on))], on));
    }
}

fn serve(loaded: Loaded, limits: Limits, prompts: &[&[u32]]) -> Outcome {
    let (result, streams) = serve_by(loaded, limits, prompts, |_| false);
    assert!(result.is_ok() && streams.values().all(finished), "{streams:?}");
    streams
}

fn tokens(streams: Outcome) -> Vec<Vec<u32>> {
    streams.into_values().map(|stream| stream.0).collect()
}

/// What is served together, or one by one, behind prefixes of others, with hardly enough memory so that some are preempted, and
/// with guesses that are checked, gets the same tokens.
fn a_crowd_gets_the_tokens_that_each_gets_alone(on: On) {
    let mut prompts = batches::prompts();
    prompts.truncate(5);
    let memory = prompts.iter().map(|prompt| prompt.len() + 1).sum();
    // Again, so that there are prefixes to go on from.
    prompts.extend_from_within(1..4);
    let guessed = Cell::new(0);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    each(on, |load| {
        let alone = tokens(serve(load(), Limits { max_num_seqs: 1, ..LIMITS }, &prompts));
        for limits in [
            LIMITS,
            Limits { kv_tokens: memory, keep_prefixes: true, ..LIMITS },
            Limits { max_num_batched_tokens: 1000, chunk_tokens: 50, ..LIMITS },
            Limits { max_draft_tokens: 4, ..LIMITS },
        ] {
            let found = serve(load(), limits, &prompts);
            if limits.keep_prefixes {
                assert!(found.values().map(cached).any(|tokens| tokens >= 32), "{found:?}");
            }
            guessed.set(guessed.get() + guesses(&found).0);
            if is_float32(on) {
                assert_eq!(tokens(found), alone, "{limits:?} on {on:?}");
            }
        }
    });
    assert_eq!(guessed.get() > 0, on.is_exact(), "{on:?}");
}

on_every_backend![a_crowd_gets_the_tokens_that_each_gets_alone];
