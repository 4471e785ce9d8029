//! What changes no bit on the CPU, and elsewhere no more than a rounding: the other rows of a step, and where a prompt is
//! cut.

use worker::model::{Model, SequenceKv};

use super::{
    forward, load,
    on::{On, alone, on_every_backend},
    tiny::{Spec, SplitMix, Tiny},
};

/// Sequences of different lengths, all prefilled alone.
fn prefilled(model: &Model, count: usize, vocab: usize) -> Vec<SequenceKv> {
    let prefill = |i: usize| {
        let mut kv = model.new_kv();
        alone(model, &mut kv, &SplitMix(100 + i as u64).tokens(3 + 5 * i, vocab));
        kv
    };
    (0..count).map(prefill).collect()
}

/// Eight sequences decode and two prefill in one step, in mixed order; each must get what it gets alone.
fn other_rows_do_not_matter(spec: Spec, on: On) {
    let spec = on.spec(spec);
    let tiny = Tiny::new(spec.clone(), 6);
    let model = load(&tiny, on).model;
    let mut random = SplitMix(7);
    let mut inputs: Vec<Vec<u32>> = (0..8).map(|_| random.tokens(1, spec.vocab)).collect();
    inputs.insert(3, random.tokens(17, spec.vocab));
    inputs.push(random.tokens(40, spec.vocab));

    let mut apart = prefilled(&model, inputs.len(), spec.vocab);
    let mut together = prefilled(&model, inputs.len(), spec.vocab);
    for _ in 0..2 {
        let expected: Vec<Vec<f32>> =
            apart.iter_mut().zip(&inputs).map(|(kv, tokens)| alone(&model, kv, tokens)).collect();
        let rows = together.iter_mut().zip(inputs.iter().map(Vec::as_slice)).collect();
        let found = forward(&model, rows);
        assert_eq!(found.len(), inputs.len());
        for (found, expected) in found.iter().zip(&expected) {
            on.same(&spec, found, expected);
        }
    }
}

fn other_rows_of_dense_products(on: On) {
    other_rows_do_not_matter(Spec { kv_heads: 2, tied: false, ..Spec::default() }, on);
}

fn other_rows_of_quantized_products(on: On) {
    other_rows_do_not_matter(Spec { quantization: Some((32, 4)), kv_heads: 2, ..Spec::default() }, on);
    let spec = Spec { quantization: Some((64, 8)), kv_heads: 2, bias: true, ..Spec::default() };
    other_rows_do_not_matter(spec, on);
}

/// Wide enough for kernels to block their loops and to use their threads.
fn other_rows_of_wide_products(on: On) {
    let spec = Spec { hidden: 576, inner: 1536, heads: 9, kv_heads: 3, head_dim: 64, ..Spec::default() };
    other_rows_do_not_matter(spec, on);
}

/// A prompt gives the same however it is cut, down to single tokens.
fn cuts_of_a_prompt(on: On) {
    for quantization in [None, Some((32, 4)), Some((64, 8))] {
        let spec = on.spec(Spec { quantization, kv_heads: 2, ..Spec::default() });
        let model = load(&Tiny::new(spec.clone(), 11), on).model;
        let tokens = SplitMix(12).tokens(90, spec.vocab);
        let whole = alone(&model, &mut model.new_kv(), &tokens);
        for cut in [1, 7, 32, 50] {
            let mut kv = model.new_kv();
            let last = tokens.chunks(cut).map(|chunk| alone(&model, &mut kv, chunk)).last().unwrap();
            on.same(&spec, &last, &whole);
        }
    }
}

on_every_backend![
    other_rows_of_dense_products,
    other_rows_of_quantized_products,
    other_rows_of_wide_products,
    cuts_of_a_prompt,
];
