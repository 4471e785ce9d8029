//! Other forms in which weights are stored, and another in which they are computed with.

use worker::model::Kernels;

use super::{BUDGET, Dense, Spec, SplitMix, Tiny, alone, largest_difference, load, load_with, reference};

/// Not every writer of files pads their header. Tensors at odd places are copied; those at places that suit their type
/// and nothing larger are not.
#[test]
fn tensors_may_lie_at_any_place_of_their_file() {
    let spec = Spec { dense: Dense::Bf16, ..Spec::default() };
    let tokens = [1, 2, 3];
    let mut tiny = Tiny::new(spec, 15);
    let aligned = load(&tiny).model;
    let expected = alone(&aligned, &mut aligned.new_kv(), &tokens);
    for excess in [1, 2, 5] {
        tiny.header_excess = excess;
        let model = load(&tiny).model;
        assert_eq!(alone(&model, &mut model.new_kv(), &tokens), expected, "{excess} bytes off");
    }
}

/// As a GPU would run it: MLX's operations in the type of the scales, though the normalizations are float32.
#[test]
fn a_model_computes_in_one_type() {
    let spec = Spec { quantization: Some((32, 4)), ..Spec::default() };
    let tiny = Tiny::new(spec.clone(), 16);
    let loaded = load_with(&tiny, Kernels::Mlx);
    loaded.model.warm_up(8).unwrap();
    let tokens = SplitMix(17).tokens(9, spec.vocab);
    let found = alone(&loaded.model, &mut loaded.model.new_kv(), &tokens);
    let difference = largest_difference(&found, &reference::logits(&tiny, &tokens)[8]);
    // float16 keeps eleven bits; some ten roundings on the way to logits near 4.
    assert!(difference < 0.1, "{difference}");
    // Keys and values have the same type, and are counted so.
    let reserved = BUDGET.sequences * 32;
    let wide = load_with(&tiny, Kernels::MlxFloat32).model.kv_tokens() + reserved;
    assert_eq!(loaded.model.kv_tokens() + reserved, 2 * wide);
}
