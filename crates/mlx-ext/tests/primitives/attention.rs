//! `Step::attend` against float64.

use mlx_ext::cpu::KvDtype;
use mlx_rs::{Array, fast::rope_dynamic, transforms::eval};
use proptest::prelude::*;

use crate::support::{
    Expected, Random,
    attention::{Rotation, Server, Spec, expected},
    cases, number, wide,
};

fn specs() -> impl Strategy<Value = Spec> {
    let head_dims = prop::sample::select(vec![8, 16, 24, 64, 80]);
    let window = prop::option::of(1..=300_i32);
    let dtypes = prop::sample::select(vec![KvDtype::Float32, KvDtype::Float16]);
    (1..=3_i32, 1..=4_i32, head_dims, 1..=4_i32, any::<[bool; 3]>(), window, dtypes).prop_map(
        |(kv_heads, group, head_dim, quarters, [traditional, chunked, sinks], window, dtype)| {
            let pairs = head_dim / 2 * quarters / 4;
            let soft_cap = None;
            Spec { kv_heads, group, head_dim, pairs, traditional, window, chunked, soft_cap, sinks, dtype }
        },
    )
}

/// Lengths of a step's sequences: short ones, and at most one that goes beyond a partition of 256 keys.
fn lengths() -> impl Strategy<Value = Vec<i32>> {
    (prop::collection::vec(1..=70_i32, 1..=4), prop::option::weighted(0.3, 240..=330_i32))
        .prop_map(|(short, long)| short.into_iter().chain(long).collect())
}

/// Up to 80 new tokens, often one, sometimes none.
fn ragged(random: &mut Random) -> i32 {
    match random.below(4) {
        0 => 0,
        1 => 1,
        _ => 1 + random.below(80) as i32,
    }
}

/// Prefill chunks and decode rows together, ragged.
#[test]
fn attention_of_ragged_sequences() {
    proptest!(cases(40), |(spec in specs(), lengths in lengths(), seed: u64)| {
        let random = &mut Random::new(seed);
        let rotation = Rotation::new(spec, 340);
        let sequences: Vec<Array> = lengths.iter().map(|&length| random.normals(&[length, spec.width()])).collect();
        let server = Server::new(random, spec, &rotation, &lengths);
        let outs = server.run(&sequences, || ragged(random));
        for (qkv, out) in sequences.iter().zip(&outs) {
            expected(spec, qkv, &rotation).check(out);
        }
    });
}

/// Where float16 holds keys and values exactly, and no angle turns them, it may cost nothing: float32's bound holds.
#[test]
fn float16_costs_nothing_where_it_is_exact() {
    proptest!(cases(12), |(spec in specs(), lengths in lengths(), seed: u64)| {
        let random = &mut Random::new(seed);
        let spec = Spec { dtype: KvDtype::Float16, ..spec };
        let rotation = Rotation::none(spec, 340);
        let exact = |random: &mut Random| (random.normal() * 256.0).round() / 256.0;
        let sequences: Vec<Array> =
            lengths.iter().map(|&length| random.array(&[length, spec.width()], exact)).collect();
        let server = Server::new(random, spec, &rotation, &lengths);
        let outs = server.run(&sequences, || ragged(random));
        for (qkv, out) in sequences.iter().zip(&outs) {
            expected(Spec { dtype: KvDtype::Float32, ..spec }, qkv, &rotation).check(out);
        }
    });
}

/// The bound is tight enough to notice that a window is off by one key of many.
#[test]
fn one_key_too_many_is_noticed() {
    let spec = Spec {
        kv_heads: 1,
        group: 2,
        head_dim: 64,
        pairs: 32,
        traditional: false,
        window: Some(100),
        chunked: false,
        soft_cap: None,
        sinks: false,
        dtype: KvDtype::Float32,
    };
    for dtype in [KvDtype::Float32, KvDtype::Float16] {
        let random = &mut Random::new(3);
        let spec = Spec { dtype, ..spec };
        let rotation = Rotation::new(spec, 150);
        let qkv = random.normals(&[150, spec.width()]);
        let out = Server::new(random, spec, &rotation, &[150]).run(std::slice::from_ref(&qkv), || 150);
        let miss = expected(Spec { window: Some(101), ..spec }, &qkv, &rotation).miss(&out[0]);
        assert!(miss > 2.0, "{miss}");
    }
}

/// Which pairs rotate, and which way: as MLX's `rope` does. One query meets one key, both unit vectors of a component,
/// so that their score is an entry of the rotation itself; two values tell the score.
#[test]
fn the_rotation_is_mlx_s() {
    let (head_dim, position) = (8, 5);
    for traditional in [false, true] {
        let spec = Spec {
            kv_heads: 1,
            group: 1,
            head_dim,
            pairs: head_dim / 2,
            traditional,
            window: None,
            chunked: false,
            soft_cap: None,
            sinks: false,
            dtype: KvDtype::Float32,
        };
        let random = &mut Random::new(4);
        let rotation = Rotation::new(spec, position + 1);
        let qkv = random.normals(&[position + 1, spec.width()]);
        let server = Server::new(random, spec, &rotation, &[position + 1]);
        let found = server.run(std::slice::from_ref(&qkv), || position + 1);

        // The same with rotations by MLX, and without any of ours.
        let heads = qkv.reshape(&[position + 1, 3, 1, head_dim]).unwrap();
        let positions = Array::from_slice(&(0..=position).collect::<Vec<_>>(), &[position + 1]);
        let turned =
            rope_dynamic(&heads, head_dim, traditional, Some(10_000.0), 1.0, &positions, None).unwrap();
        let keep = mlx_rs::ops::indexing::take_axis(&heads, Array::from_slice(&[2_i32], &[1]), 1).unwrap();
        let turn =
            mlx_rs::ops::indexing::take_axis(&turned, Array::from_slice(&[0_i32, 1], &[2]), 1).unwrap();
        let turned = mlx_rs::ops::concatenate(&[turn, keep], 1).unwrap();
        let turned = turned.reshape(&[position + 1, spec.width()]).unwrap();
        eval([&turned]).unwrap();
        let value = expected(spec, &turned, &Rotation::none(spec, position + 1)).value;
        // Angles up to 5 in float32, and outputs near 1.
        let error = wide(&found[0]) * number(0.0) + number(2e-5);
        Expected { value, error }.check(&found[0]);
    }
}
