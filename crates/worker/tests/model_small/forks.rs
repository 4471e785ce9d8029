//! Sequences that begin with the same tokens and share their memory.

use worker::cache::Fork;

use super::{
    forward, load,
    on::{On, alone, on_every_backend},
    tiny::{Spec, SplitMix, Tiny},
};

/// Forks of different lengths, in full blocks and inside one, go on in one step beside their origin, and each gets what it
/// would get if it had computed its beginning itself.
fn forks_go_on_as_if_they_were_alone(on: On) {
    let spec = on.spec(Spec { quantization: Some((32, 4)), kv_heads: 2, ..Spec::default() });
    let model = load(&Tiny::new(spec.clone(), 31), on).model;
    let mut random = SplitMix(32);
    let prompt = random.tokens(70, spec.vocab);
    let mut origin = model.new_kv();
    alone(&model, &mut origin, &prompt);

    let lens = [70, 70, 64, 33, 32, 5, 0];
    let rest: Vec<Vec<u32>> = (0..=lens.len()).map(|i| random.tokens(1 + 9 * i, spec.vocab)).collect();
    let apart = |len: usize, rest: &[u32]| {
        let mut kv = model.new_kv();
        let last =
            [&prompt[..len], rest].map(|tokens| (!tokens.is_empty()).then(|| alone(&model, &mut kv, tokens)));
        last.into_iter().flatten().last().unwrap()
    };

    let mut forks: Vec<_> = lens.iter().map(|&len| origin.fork(len)).collect();
    assert_eq!(forks.iter().map(|fork| fork.len()).collect::<Vec<_>>(), lens);
    let mut rows: Vec<_> = forks.iter_mut().zip(rest.iter().map(Vec::as_slice)).collect();
    rows.push((&mut origin, &rest[lens.len()]));
    let found = forward(&model, rows);
    for ((found, rest), len) in found.iter().zip(&rest).zip(lens.into_iter().chain([70])) {
        on.same(&spec, found, &apart(len, rest));
    }

    // What they share outlives the origin.
    drop(origin);
    let again = [7];
    let found = alone(&model, &mut forks[0], &again);
    on.same(&spec, &found, &apart(70, &[&rest[0][..], &again].concat()));
}

/// However often a sequence is forked, its memory is there once.
fn forks_take_no_memory(on: On) {
    let spec = on.spec(Spec::default());
    let model = load(&Tiny::new(spec.clone(), 33), on).model;
    let prompt = SplitMix(34).tokens(400, spec.vocab);
    let mut origin = model.new_kv();
    alone(&model, &mut origin, &prompt);
    // All of them together would not fit the budget.
    let forks: Vec<_> = (0..=model.kv_tokens() / 400).map(|_| origin.fork(400)).collect();
    let mut last = forks.last().unwrap().fork(384);
    let found = alone(&model, &mut last, &prompt[384..]);
    let mut fresh = model.new_kv();
    on.same(&spec, &found, &alone(&model, &mut fresh, &prompt));
}

on_every_backend![forks_go_on_as_if_they_were_alone, forks_take_no_memory];
