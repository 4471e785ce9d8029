//! Tiny llamas of every kind against float64.

use serde_json::json;

use super::{
    load,
    on::{On, alone, on_every_backend},
    tiny::{Float, Spec, SplitMix, Tiny, reference},
};

/// Prefill in chunks and decode token by token, against the reference at every boundary.
fn agrees_with_reference(spec: Spec, on: On) {
    let spec = on.spec(spec);
    let tiny = Tiny::new(spec.clone(), 1);
    let loaded = load(&tiny, on);
    let tokens = SplitMix(2).tokens(23, spec.vocab);
    let expected = reference::logits(&tiny, &tokens);
    let mut kv = loaded.model.new_kv();
    for chunk in [&tokens[..9], &tokens[9..20], &tokens[20..21], &tokens[21..22], &tokens[22..]] {
        let found = alone(&loaded.model, &mut kv, chunk);
        on.agrees(&spec, &found, &expected[kv.len() - 1]);
    }
}

fn dense_weights(on: On) {
    agrees_with_reference(Spec::default(), on);
}

fn dense_bfloat16_weights(on: On) {
    agrees_with_reference(Spec { dense: Float::Bf16, norms: Float::Bf16, ..Spec::default() }, on);
}

fn weights_of_four_bits(on: On) {
    agrees_with_reference(Spec { quantization: Some((32, 4)), kv_heads: 2, ..Spec::default() }, on);
}

fn weights_of_eight_bits_and_an_own_head(on: On) {
    agrees_with_reference(Spec { quantization: Some((64, 8)), tied: false, ..Spec::default() }, on);
}

fn biases_and_odd_head_sizes(on: On) {
    let spec = Spec { bias: true, heads: 6, kv_heads: 3, head_dim: 10, tied: false, ..Spec::default() };
    agrees_with_reference(spec, on);
}

fn llama3_rope(on: On) {
    // A context of 40 puts wavelengths on the ramp and on both sides of it.
    let rope_scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40,
    });
    agrees_with_reference(Spec { rope_theta: 500.0, rope_scaling, kv_heads: 1, ..Spec::default() }, on);
}

fn linear_rope(on: On) {
    let rope_scaling = json!({ "rope_type": "linear", "factor": 4.0 });
    agrees_with_reference(Spec { rope_scaling, ..Spec::default() }, on);
}

fn room_grows_without_a_trace(on: On) {
    let spec = on.spec(Spec { layers: 1, ..Spec::default() });
    let tiny = Tiny::new(spec.clone(), 3);
    let loaded = load(&tiny, on);
    let tokens = SplitMix(4).tokens(260, spec.vocab);
    let expected = reference::logits(&tiny, &tokens);
    let mut kv = loaded.model.new_kv();
    alone(&loaded.model, &mut kv, &tokens[..254]);
    for (position, token) in tokens.iter().enumerate().skip(254) {
        on.agrees(&spec, &alone(&loaded.model, &mut kv, &[*token]), &expected[position]);
    }
    assert_eq!(kv.len(), 260);
}

on_every_backend![
    dense_weights,
    dense_bfloat16_weights,
    weights_of_four_bits,
    weights_of_eight_bits_and_an_own_head,
    biases_and_odd_head_sizes,
    llama3_rope,
    linear_rope,
    room_grows_without_a_trace,
];
