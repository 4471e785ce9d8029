//! Many sequences at once: decodes, chunks of several prompts and preempted sequences in the same steps.

use worker::{
    cache::Fork,
    model::{SequenceKv, StepInput, StepRow},
    schedule::Limits,
};

use super::{
    load,
    on::{MLX_EXPANDED, On, on_every_backend},
    served::{LIMITS, Outcome, finished, serve},
    tiny::{Float, Spec, SplitMix, Tiny, reference},
};

/// Prompts of mixed lengths, the last two of which begin alike.
pub(crate) fn prompts() -> Vec<Vec<u32>> {
    let mut random = SplitMix(91);
    let mut prompts: Vec<Vec<u32>> =
        [3, 90, 17, 40, 64, 33, 120].iter().map(|&len| random.tokens(len, 100)).collect();
    prompts.push([&prompts[6][..70], &random.tokens(9, 100)].concat());
    prompts
}

fn tokens(on: On, limits: Limits) -> Vec<Vec<u32>> {
    let prompts = prompts();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let (result, streams): (_, Outcome) = serve(on, limits, &prompts, |_| false);
    assert!(result.is_ok() && streams.values().all(finished), "{streams:?}");
    streams.into_values().map(|stream| stream.0).collect()
}

/// What is served together, with hardly enough memory for all prompts, so that some are preempted when their outputs grow,
/// gets the tokens that each gets alone, and the same on every backend that computes in float32.
fn a_crowd_gets_the_tokens_that_each_gets_alone(on: On) {
    let memory = prompts().iter().map(|prompt| prompt.len() + 1).sum();
    let one_by_one = Limits { max_num_seqs: 1, ..LIMITS };
    let crowds = [
        LIMITS,
        Limits { kv_tokens: memory, ..LIMITS },
        Limits { kv_tokens: memory, keep_prefixes: true, ..LIMITS },
        Limits { max_num_batched_tokens: 1000, ..LIMITS },
    ];
    let alone = tokens(on, one_by_one);
    for limits in crowds {
        let found = tokens(on, limits);
        // A batch's size can turn the choice between two tokens in other types.
        if on.float.is_none_or(|float| float == Float::F32) {
            assert_eq!(found, alone, "{limits:?} on {on:?}");
        }
    }
    if on.float.is_none_or(|float| float == Float::F32) {
        assert_eq!(alone, tokens(MLX_EXPANDED, one_by_one), "{on:?}");
    }
}

/// Steps of decodes, drafts of some tokens, and several chunks, in mixed order, with logits after each token; then
/// sequences are cut and forked, and go on. All of it near float64.
fn mixed_rows_agree_with_the_reference(on: On) {
    let spec = on.spec(Spec { kv_heads: 2, ..Spec::default() });
    let tiny = Tiny::new(spec.clone(), 92);
    let model = load(&tiny, on).model;
    let mut random = SplitMix(93);
    let mut sequences: Vec<(SequenceKv, Vec<u32>)> = (0..10).map(|_| (model.new_kv(), Vec::new())).collect();
    let mut step = |sequences: &mut [(SequenceKv, Vec<u32>)], new: [usize; 10]| {
        let new = new.map(|count| random.tokens(count, spec.vocab));
        let rows = sequences.iter_mut().zip(&new).filter(|(_, new)| !new.is_empty());
        let rows = rows
            .map(|((kv, _), new)| StepRow { tokens: new, kv, logits: 0..new.len(), adapter: None })
            .collect();
        let logits = model.forward(&mut StepInput { rows }).unwrap().unwrap();
        let mut row = 0;
        for ((kv, tokens), new) in sequences.iter_mut().zip(&new) {
            tokens.extend(new);
            assert_eq!(kv.len(), tokens.len());
            let expected = reference::logits(&tiny, tokens);
            for expected in &expected[tokens.len() - new.len()..] {
                on.agrees(&spec, logits.row(row), expected);
                row += 1;
            }
        }
        assert_eq!(row, logits.rows());
    };
    step(&mut sequences, [5, 60, 1, 33, 2, 0, 70, 1, 4, 31]);
    step(&mut sequences, [1; 10]);
    step(&mut sequences, [1; 10]);
    step(&mut sequences, [1, 4, 1, 17, 4, 64, 1, 0, 9, 1]);
    for (index, len) in [(1, 61), (3, 40), (4, 2), (6, 0)] {
        sequences[index].0.truncate(len);
        sequences[index].1.truncate(len);
    }
    let (kv, tokens) = &sequences[1];
    sequences[7] = (kv.fork(45), tokens[..45].to_vec());
    step(&mut sequences, [1, 1, 1, 1, 1, 1, 3, 1, 1, 1]);
    step(&mut sequences, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
}

on_every_backend![a_crowd_gets_the_tokens_that_each_gets_alone, mixed_rows_agree_with_the_reference];
