//! What a step takes and gives.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use worker::model::{KvBudget, KvDtype, Logits, Model, ModelError, SequenceKv, StepInput, StepRow};

use super::{
    BUDGET, import, largest_difference, load,
    on::{On, alone, on_every_backend},
    tiny::{Spec, SplitMix, Tiny, reference},
};

fn a_truncated_sequence_goes_on_as_if_it_had_never_been_longer(on: On) {
    let spec = on.spec(Spec { quantization: Some((32, 4)), ..Spec::default() });
    let model = load(&Tiny::new(spec, 5), on).model;
    let mut kv = model.new_kv();
    alone(&model, &mut kv, &[1, 2, 3, 4, 5]);
    let first = alone(&model, &mut kv, &[6]);
    alone(&model, &mut kv, &[7, 8, 9]);
    kv.truncate(5);
    assert_eq!(kv.len(), 5);
    // The same shapes again: not a bit differs on any backend.
    assert_eq!(alone(&model, &mut kv, &[6]), first);
    kv.truncate(100);
    assert_eq!(kv.len(), 6, "truncating never lengthens");
}

fn only_wanted_logits_come_in_the_order_of_the_rows(on: On) {
    let spec = on.spec(Spec::default());
    let model = load(&Tiny::new(spec.clone(), 8), on).model;
    let inputs: [&[u32]; 4] = [&[1, 2, 3], &[4], &[5, 6], &[7]];
    let forward = |wanted: [Range<usize>; 4]| -> Option<Logits> {
        let mut kvs: Vec<SequenceKv> = inputs.iter().map(|_| model.new_kv()).collect();
        let rows = kvs.iter_mut().zip(inputs).zip(wanted);
        let rows = rows.map(|((kv, tokens), logits)| StepRow { tokens, kv, logits, adapter: None }).collect();
        let logits = model.forward(&mut StepInput { rows }).unwrap();
        assert_eq!(kvs.iter().map(SequenceKv::len).collect::<Vec<_>>(), [3, 1, 2, 1]);
        logits
    };
    let all = forward([0..3, 0..1, 0..2, 0..1]).unwrap();
    assert_eq!(all.rows(), 7);
    let wanted = |wanted: [Range<usize>; 4], rows: &[usize]| {
        let some = forward(wanted).unwrap();
        assert_eq!(some.rows(), rows.len());
        rows.iter().enumerate().for_each(|(index, &row)| on.same(&spec, some.row(index), all.row(row)));
    };
    wanted([1..1, 0..1, 1..2, 0..0], &[3, 5]);
    wanted([1..3, 0..0, 0..1, 0..1], &[1, 2, 4, 6]);
    assert!(forward([0..0, 0..0, 0..0, 0..0]).is_none());
}

fn the_time_before_anything_is_computed_is_told_once(on: On) {
    let model = load(&Tiny::new(on.spec(Spec::default()), 8), on).model;
    let began = Instant::now();
    alone(&model, &mut model.new_kv(), &[1, 2, 3]);
    let building = model.take_building();
    assert!(building > Duration::ZERO && building < began.elapsed());
    assert_eq!(model.take_building(), Duration::ZERO);
}

fn only_kernels_that_count_their_work_show_that_a_step_goes_on(on: On) {
    let model = load(&Tiny::new(on.spec(Spec::default()), 8), on).model;
    assert_eq!(model.progress().is_some(), on.is_exact());
    if let Some(progress) = model.progress() {
        let before = progress();
        alone(&model, &mut model.new_kv(), &[1, 2, 3]);
        assert!(progress() > before);
    }
}

fn input_that_does_not_fit_is_refused_and_changes_nothing(on: On) {
    let spec = on.spec(Spec { context: 8, ..Spec::default() });
    let model = load(&Tiny::new(spec, 9), on).model;
    assert_eq!((model.context_length(), model.vocab_size()), (8, 101));
    let mut kv = model.new_kv();
    let before = alone(&model, &mut kv, &[1, 2, 3]);
    let mut refuse = |tokens: &[u32]| {
        let mut other = model.new_kv();
        let rows = vec![StepRow::last_logits(&[1], &mut other), StepRow::last_logits(tokens, &mut kv)];
        let error = model.forward(&mut StepInput { rows }).unwrap_err();
        assert_eq!((other.len(), kv.len()), (0, 3));
        error
    };
    assert!(matches!(refuse(&[]), ModelError::EmptyRow { row: 1 }));
    let error = refuse(&[5, 101]);
    assert!(matches!(error, ModelError::TokenOutOfRange { row: 1, token: 101, vocab_size: 101 }), "{error}");
    assert!(matches!(refuse(&[1; 6]), ModelError::ContextFull { row: 1, len: 9, limit: 8 }));
    let mut other = model.new_kv();
    let rows = vec![StepRow { tokens: &[1, 2], kv: &mut other, logits: 1..3, adapter: None }];
    let error = model.forward(&mut StepInput { rows }).unwrap_err();
    assert!(matches!(error, ModelError::LogitsOutOfRange { row: 0, len: 2, .. }), "{error}");
    kv.truncate(0);
    assert_eq!(alone(&model, &mut kv, &[1, 2, 3]), before);
}

/// The CPU's kernels can keep float16; MLX's operations keep what they compute with, whatever is asked for.
fn keys_and_values_in_float16_stay_near_and_take_half_the_room(on: On) {
    let spec = on.spec(Spec { kv_heads: 2, ..Spec::default() });
    let tiny = Tiny::new(spec.clone(), 13);
    let (artifact, _folder) = import(&tiny);
    let load = |dtype| Model::load(&artifact, on.kernels, KvBudget { dtype, ..BUDGET }).unwrap();
    let (whole, half) = (load(KvDtype::Float32), load(KvDtype::Float16));
    let tokens = SplitMix(14).tokens(70, spec.vocab);
    let found = alone(&half, &mut half.new_kv(), &tokens);
    let in_float32 = alone(&whole, &mut whole.new_kv(), &tokens);
    if !on.is_exact() {
        assert_eq!((half.kv_tokens(), found), (whole.kv_tokens(), in_float32));
        return;
    }
    let difference = largest_difference(&found, &reference::logits(&tiny, &tokens)[69]);
    // float16 keeps eleven bits: two layers' rounding by 2^-12 of each key and value, logits near 4.
    assert!(difference < 1e-2, "{difference}");
    assert_ne!(found, in_float32, "nothing was rounded");
    let cut: Vec<f32> = {
        let mut kv = half.new_kv();
        tokens.chunks(9).map(|chunk| alone(&half, &mut kv, chunk)).last().unwrap()
    };
    assert!(cut.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()));
    let reserved = BUDGET.sequences * 32;
    assert_eq!(half.kv_tokens() + reserved, 2 * (whole.kv_tokens() + reserved));
}

/// A model that is warmed up before its first request computes the same as one that is not.
fn warming_up_leaves_nothing_behind(on: On) {
    let spec = on.spec(Spec { quantization: Some((32, 4)), context: 8, ..Spec::default() });
    let model = load(&Tiny::new(spec, 16), on).model;
    let before = alone(&model, &mut model.new_kv(), &[1, 2, 3]);
    for chunk in [1, 7, 8, 512] {
        model.warm_up(chunk).unwrap();
    }
    assert_eq!(alone(&model, &mut model.new_kv(), &[1, 2, 3]), before);
}

on_every_backend![
    a_truncated_sequence_goes_on_as_if_it_had_never_been_longer,
    only_wanted_logits_come_in_the_order_of_the_rows,
    the_time_before_anything_is_computed_is_told_once,
    only_kernels_that_count_their_work_show_that_a_step_goes_on,
    input_that_does_not_fit_is_refused_and_changes_nothing,
    keys_and_values_in_float16_stay_near_and_take_half_the_room,
    warming_up_leaves_nothing_behind,
];
