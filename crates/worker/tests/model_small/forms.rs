//! Other forms in which weights are stored, and the type in which they are computed with.

use super::{
    BUDGET, load,
    on::{MLX_EXPANDED, On, alone, on_every_backend},
    tiny::{Float, Spec, SplitMix, Tiny, reference},
};

/// Not every writer of files pads their header. Import moves tensors that lie at odd places, so that no worker has to copy
/// them; those at places that suit their type and nothing larger stay where they are.
fn tensors_may_lie_at_any_place_of_their_file(on: On) {
    let spec = on.spec(Spec { dense: Float::Bf16, norms: Float::Bf16, ..Spec::default() });
    let tokens = [1, 2, 3];
    let mut tiny = Tiny::new(spec, 15);
    let aligned = load(&tiny, on).model;
    let expected = alone(&aligned, &mut aligned.new_kv(), &tokens);
    for excess in [1, 2, 5] {
        tiny.header_excess = excess;
        let model = load(&tiny, on).model;
        assert_eq!(alone(&model, &mut model.new_kv(), &tokens), expected, "{excess} bytes off");
        assert_eq!(model.private_bytes(), 0, "{excess} bytes off");
    }
}

/// Models have tensors of several float types: an import of a GGUF file has scales in float16, normalizations in float32,
/// and an embedding of more bits than the rest; others keep some of them in bfloat16. A backend computes in one type.
fn float_types_may_be_mixed(on: On) {
    let gguf = Spec {
        quantization: Some((32, 4)),
        embedding: Some((32, 8)),
        scales: Float::F16,
        norms: Float::F32,
        kv_heads: 2,
        ..Spec::default()
    };
    let specs = [
        gguf.clone(),
        Spec { tied: false, bias: true, ..gguf },
        Spec {
            quantization: Some((64, 4)),
            scales: Float::Bf16,
            norms: Float::F32,
            bias: true,
            ..Spec::default()
        },
        Spec { dense: Float::Bf16, norms: Float::F32, bias: true, ..Spec::default() },
        Spec { dense: Float::F16, norms: Float::Bf16, bias: true, ..Spec::default() },
        // An own head in another type than the layers.
        Spec { head: Some(Float::F32), dense: Float::Bf16, tied: false, ..Spec::default() },
        Spec { head: Some(Float::Bf16), dense: Float::F32, tied: false, ..Spec::default() },
    ];
    let on = On { float: None, ..on };
    for spec in specs {
        let tiny = Tiny::new(spec.clone(), 16);
        let loaded = load(&tiny, on);
        let tokens = SplitMix(17).tokens(9, spec.vocab);
        let mut kv = loaded.model.new_kv();
        let expected = reference::logits(&tiny, &tokens);
        on.agrees(&spec, &alone(&loaded.model, &mut kv, &tokens[..7]), &expected[6]);
        on.agrees(&spec, &alone(&loaded.model, &mut kv, &tokens[7..]), &expected[8]);
        // Keys and values have the type of activations, and are counted so. Where they are gathered for a step, a fifth of
        // the memory is for that.
        let value_bytes =
            if on.is_exact() || on.kernels == MLX_EXPANDED.kernels { 4 } else { spec.activations().bytes() };
        let bytes = if on.is_exact() { BUDGET.bytes } else { BUDGET.bytes - BUDGET.bytes / 5 };
        let token = 2 * spec.layers * spec.kv_heads * spec.head_dim * value_bytes;
        let tokens = (bytes as usize / (32 * token) - BUDGET.sequences) * 32;
        assert_eq!(loaded.model.kv_tokens(), tokens, "{spec:?}");
    }
}

/// Every packing that MLX has.
fn matrices_may_be_packed_in_any_way(on: On) {
    let affine = [(64, 2), (32, 3), (64, 5), (64, 6)].map(|packing| ("affine", packing));
    let small_floats = [("mxfp4", (32, 4)), ("mxfp8", (32, 8)), ("nvfp4", (16, 4))];
    for (mode, quantization) in affine.into_iter().chain(small_floats) {
        for tied in [true, false] {
            let spec = Spec { mode, quantization: Some(quantization), tied, kv_heads: 2, ..Spec::default() };
            let tiny = Tiny::new(on.spec(spec.clone()), 18);
            let loaded = load(&tiny, on);
            // What is expanded is each worker's own: in bfloat16 it takes more than the packed form.
            let is_expanded = on.is_exact() && ["mxfp8", "nvfp4"].contains(&mode);
            let (mapped, own) = (loaded.model.weight_bytes(), loaded.model.private_bytes());
            assert!(if is_expanded { own > mapped } else { own == 0 }, "{mode}: {own} beside {mapped}");
            let tokens = SplitMix(19).tokens(9, spec.vocab);
            let mut kv = loaded.model.new_kv();
            let expected = reference::logits(&tiny, &tokens);
            on.agrees(&spec, &alone(&loaded.model, &mut kv, &tokens[..7]), &expected[6]);
            on.agrees(&spec, &alone(&loaded.model, &mut kv, &tokens[7..]), &expected[8]);
        }
    }
}

on_every_backend![
    tensors_may_lie_at_any_place_of_their_file,
    float_types_may_be_mixed,
    matrices_may_be_packed_in_any_way,
];
