//! Adapters of models whose layers keep states: of their attention and their feed-forward networks.

use std::{path::Path, sync::Arc};

use worker::{model::Adapter, schedule::Limits};

use super::{
    Loaded,
    adapters::{Base, RecordedAdapter, alone},
    batches, load_folder,
    on::{On, on_every_backend},
    prefixes::cached,
    recorded::{Recorded, committed},
    served::{LIMITS, finished, serve_adapted},
    tiny::{Float, SplitMix},
};

/// Short convolutions, and gated delta nets with experts. Of each the modules that two adapters change.
const MODELS: [(&str, [&[&str]; 2]); 2] = [
    (
        "lfm2",
        [
            &[
                "model.layers.1.self_attn.q_proj",
                "model.layers.1.self_attn.v_proj",
                "model.layers.0.feed_forward.w1",
            ],
            &["model.layers.1.self_attn.out_proj", "model.layers.3.feed_forward.w2"],
        ],
    ),
    (
        "qwen3_next",
        [
            &[
                "model.layers.3.self_attn.q_proj",
                "model.layers.3.self_attn.v_proj",
                "model.layers.0.mlp.up_proj",
            ],
            &["model.layers.3.self_attn.o_proj", "model.layers.2.mlp.down_proj"],
        ],
    ),
];

/// Each model, and its two adapters. Adapters are compared where a rounding does not turn a token.
fn each(on: On, check: impl Fn(&Recorded, &[RecordedAdapter; 2])) {
    if on.float.is_some_and(|float| float != Float::F32) {
        return;
    }
    for (name, modules) in MODELS {
        let model = committed().remove(name).unwrap().remove(0);
        let [first, second] = modules;
        let adapter = |label, modules| RecordedAdapter::of(name, &model, label, modules);
        check(&model, &[adapter("first", first), adapter("second", second)]);
    }
}

/// The model, and what each request is computed with: nothing, the first adapter, the second, and so on.
fn loaded(model: &Recorded, adapters: &[RecordedAdapter; 2], on: On) -> (Loaded, [Option<Arc<Adapter>>; 3]) {
    let base = Base::new(model, &model.runs[0], on);
    let [first, second] = adapters.each_ref().map(|adapter| Some(base.load(adapter)));
    (base.loaded, [None, first, second])
}

fn agrees_with_merged_weights(on: On) {
    each(on, |model, adapters| {
        let (base, choices) = loaded(model, adapters, on);
        let plain = alone(&base.model, &model.prompt, None);
        for (adapter, choice) in adapters.iter().zip(&choices[1..]) {
            let write = |folder: &Path| {
                model.write_changed(folder, None, Float::F32, |name, values| adapter.merge(name, values));
            };
            let merged = load_folder(write, on);
            let found = alone(&base.model, &model.prompt, choice.as_ref());
            let expected: Vec<f64> =
                alone(&merged.model, &model.prompt, None).into_iter().map(f64::from).collect();
            let difference = super::largest_difference(&found, &expected);
            assert!(difference < 2e-3, "{difference} on {on:?}");
            assert!(super::largest_difference(&plain, &expected) > 0.02, "the adapter changes nothing");
        }
    });
}

/// With others in one step, in pieces, and after what was computed of it was given up, a request gets what it gets alone.
fn a_crowd_gets_the_tokens_that_each_gets_alone(on: On) {
    let prompts = batches::prompts();
    let memory = prompts.iter().map(|prompt| prompt.len() + 1).sum();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    each(on, |model, adapters| {
        let serve = |limits: Limits| {
            let (base, choices) = loaded(model, adapters, on);
            let choices: Vec<_> = choices.iter().cycle().take(prompts.len()).cloned().collect();
            let limits = Limits { max_held_seqs: limits.max_num_seqs + 1, ..limits };
            let (streams, preemptions) = serve_adapted(base, limits, &prompts, &choices);
            assert!(streams.values().all(finished), "{streams:?}");
            (streams.into_values().map(|stream| stream.0).collect::<Vec<_>>(), preemptions)
        };
        let (expected, none) = serve(Limits { max_num_seqs: 1, ..LIMITS });
        assert_eq!(none, 0);
        assert_eq!(serve(LIMITS).0, expected, "{on:?}");
        // All prompts are computed at once, and then there is room for one more token of each.
        let short = Limits { kv_tokens: memory, chunk_tokens: 200, max_num_batched_tokens: 1000, ..LIMITS };
        let (found, preemptions) = serve(Limits { keep_prefixes: true, ..short });
        assert_eq!(found, expected, "with little memory on {on:?}");
        assert!(preemptions > 0, "some had to wait for memory");
    });
}

/// What the cache has of one adapter is not another's, nor the base's: neither keys and values nor states.
fn prefixes_and_states_are_those_of_one_adapter(on: On) {
    let prompt = SplitMix(41).tokens(150, 100);
    let limits =
        Limits { max_num_seqs: 1, chunk_tokens: 64, keep_prefixes: true, max_held_seqs: 2, ..LIMITS };
    each(on, |model, adapters| {
        let serve = |limits: Limits| {
            let (base, choices) = loaded(model, adapters, on);
            // Each of them twice.
            let choices: Vec<_> = choices.iter().cycle().take(6).cloned().collect();
            serve_adapted(base, limits, &[prompt.as_slice(); 6], &choices).0
        };
        let kept = serve(limits);
        let found: Vec<u32> = kept.values().map(cached).collect();
        assert_eq!(found, [0, 0, 0, 128, 128, 128], "{on:?}");
        let apart = serve(Limits { keep_prefixes: false, ..limits });
        let tokens = |outcome: super::served::Outcome| -> Vec<Vec<u32>> {
            outcome.into_values().map(|stream| stream.0).collect()
        };
        let (kept, apart) = (tokens(kept), tokens(apart));
        assert_eq!(kept, apart, "{on:?}");
        assert!(apart[0] != apart[1] && apart[1] != apart[2] && apart[0] != apart[2], "{apart:?}");
    });
}

on_every_backend![
    agrees_with_merged_weights,
    a_crowd_gets_the_tokens_that_each_gets_alone,
    prefixes_and_states_are_those_of_one_adapter,
];
