//! Attention of every kind that is not refused, on both backends, against plain loops over float64; and what around a
//! product is not fused.

#![allow(clippy::unwrap_used)]

use std::rc::Rc;

use mlx_ext::Device;
use mlx_rs::{
    ops::{concatenate, indexing::TryIndexOp},
    transforms::eval,
};

use super::*;

const HEADS: Heads = Heads { queries: 4, kv: 2, dim: 16 };
const WIDTH: i32 = (HEADS.queries + 2 * HEADS.kv) * HEADS.dim;
const TOKENS: i32 = 45;
const BUDGET: KvBudget =
    KvBudget { bytes: 1 << 20, sequences: 2, dtype: KvDtype::Float32, step_tokens: Some(8) };

/// Both kinds of attention, in float32.
pub(super) fn backends() -> Vec<Backend> {
    let device = mlx_ext::init().unwrap();
    let cpu = (device == Device::Cpu).then_some(Kernels::Cpu);
    cpu.into_iter().chain([Kernels::Mlx]).map(|kernels| Backend::new(kernels, Dtype::Float32)).collect()
}

/// Numbers between -1 and 1: the same on every machine.
pub(super) fn numbers(count: i32, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Inverse frequencies of some pairs.
fn inv_freq(pairs: i32) -> Vec<f64> {
    (0..pairs).map(|pair| 100_f64.powf(-f64::from(pair) / 8.0)).collect()
}

/// One sequence's attention, in chunks.
fn attend(backend: Backend, spec: &AttentionSpec, qkv: &Array) -> Vec<f32> {
    let memory = backend.kv_memory(&KvGeometry::new([(HEADS.into(), spec.reach())]), BUDGET, 1000).unwrap();
    let mut sequence = memory.sequence();
    let lends = AttentionSpec { kv: KvSource::Lent, ..spec.clone() };
    let borrows = AttentionSpec { kv: KvSource::Borrowed(0), ..spec.clone() };
    let queries = Columns::new(std::iter::once(0..HEADS.queries * HEADS.dim).collect());
    let mut outputs = Vec::new();
    let mut position = 0;
    for end in [20, 33, 34, 35, TOKENS] {
        let new_tokens = (end - position) as usize;
        let row = RowMemory { position: position as usize, new_tokens, memory: &mut sequence };
        let step = memory.begin(vec![row], StepBefore::Computed).unwrap();
        let qkv = qkv.try_index(position..end).unwrap();
        let output = step.attend(&lends, 0, &qkv).unwrap();
        // The same queries meet what has been appended.
        let again = step.attend(&borrows, 0, &backend.columns(&qkv, &queries).unwrap()).unwrap();
        drop(step);
        eval([&output]).unwrap();
        eval([&again]).unwrap();
        assert_eq!(again.as_slice::<f32>(), output.as_slice::<f32>(), "{spec:?} on {backend:?}");
        sequence.commit();
        outputs.push(output);
        position = end;
    }
    let all = concatenate(&outputs, 0).unwrap();
    eval([&all]).unwrap();
    all.as_slice::<f32>().to_vec()
}

/// The same in float64, with `pairs` of components rotated.
fn expected(spec: &AttentionSpec, pairs: usize, qkv: &[f32]) -> Vec<f64> {
    let (dim, queries, kv) = (HEADS.dim as usize, HEADS.queries as usize, HEADS.kv as usize);
    let traditional = spec.rope.as_ref().is_some_and(|rope| rope.traditional());
    let head = |token: usize, head: usize, rotated: bool| -> Vec<f64> {
        let from = token * WIDTH as usize + head * dim;
        let mut x: Vec<f64> = qkv[from..from + dim].iter().map(|&v| f64::from(v)).collect();
        for (pair, inv_freq) in inv_freq(pairs as i32).into_iter().enumerate().filter(|_| rotated) {
            let (a, b) = if traditional { (2 * pair, 2 * pair + 1) } else { (pair, pair + pairs) };
            let (sin, cos) = (token as f64 * inv_freq).sin_cos();
            let gain = spec.rope.as_ref().map_or(1.0, |rope| f64::from(rope.gain()));
            (x[a], x[b]) = (gain * (x[a] * cos - x[b] * sin), gain * (x[b] * cos + x[a] * sin));
        }
        x
    };
    let mut out = Vec::new();
    for token in 0..TOKENS as usize {
        for query_head in 0..queries {
            let query = head(token, query_head, true);
            let kv_head = queries + query_head * kv / queries;
            let first = match spec.window.map(|window| window as usize) {
                None => 0,
                Some(chunk) if spec.chunked => token / chunk * chunk,
                Some(window) => (token + 1).saturating_sub(window),
            };
            let cap = |score: f64| {
                spec.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let periods = |scale: &Rc<QueryScale>| ((token as f64 + scale.offset()) / 8.0).floor();
            let growth = spec.query_scale.as_ref().map_or(1.0, |scale| 1.0 + 0.5 * periods(scale).ln_1p());
            let score = |key: usize| -> f64 {
                let key = head(key, kv_head, true);
                let product = query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                cap(product * f64::from(spec.scale) * growth)
            };
            let weights: Vec<f64> = (first..=token).map(|key| score(key).exp()).collect();
            let sink = spec.sinks.as_ref().map(|sinks| f64::from(sinks.as_slice::<f32>()[query_head]).exp());
            let sum = weights.iter().sum::<f64>() + sink.unwrap_or(0.0);
            let mut mixed = vec![0.0; dim];
            for (key, weight) in (first..=token).zip(weights) {
                let value = head(key, kv_head + kv, false);
                mixed.iter_mut().zip(value).for_each(|(m, v)| *m += weight / sum * v);
            }
            out.extend(mixed);
        }
    }
    out
}

fn agrees(spec: &AttentionSpec, pairs: usize) {
    let values = numbers(TOKENS * WIDTH, 1);
    let qkv = Array::from_slice(&values, &[TOKENS, WIDTH]);
    let expected = expected(spec, pairs, &values);
    for backend in backends() {
        assert_eq!(backend.unsupported(spec), None);
        let found = attend(backend, spec, &qkv);
        let difference =
            found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
        // float32 sums over at most 45 keys of values below 1.
        assert!(
            found.len() == expected.len() && difference < 1e-5,
            "{difference} of {spec:?} on {backend:?}"
        );
    }
}

fn rope(pairs: i32, traditional: bool) -> Option<Rc<Rope>> {
    Some(Rc::new(Rope::new(inv_freq(pairs), traditional, 64)))
}

#[test]
fn causal_attention_with_every_kind_of_rotation() {
    agrees(&AttentionSpec::causal(HEADS, rope(8, false)), 8);
    agrees(&AttentionSpec::causal(HEADS, rope(8, true)), 8);
    agrees(&AttentionSpec::causal(HEADS, rope(4, false)), 4);
    agrees(&AttentionSpec::causal(HEADS, rope(4, true)), 4);
    agrees(&AttentionSpec::causal(HEADS, None), 0);
}

#[test]
fn windows_and_scales_differ_by_layer() {
    let plain = AttentionSpec::causal(HEADS, rope(8, false));
    for window in [1, 7, 32, 44, 45, 1000] {
        agrees(&AttentionSpec { window: Some(window), ..plain.clone() }, 8);
    }
    for chunk in [1, 7, 20, 32, 44, 45, 1000] {
        agrees(&AttentionSpec { window: Some(chunk), chunked: true, ..plain.clone() }, 8);
    }
    agrees(&AttentionSpec { scale: 0.5, ..plain }, 8);
}

#[test]
fn scores_may_be_capped_and_queries_may_grow() {
    let plain = AttentionSpec::causal(HEADS, rope(8, false));
    for cap in [0.5, 30.0] {
        agrees(&AttentionSpec { soft_cap: Some(cap), ..plain.clone() }, 8);
        agrees(&AttentionSpec { soft_cap: Some(cap), window: Some(7), ..plain.clone() }, 8);
    }
    // Of a token the 8th, or with an offset of 3 the 5th, is the first whose queries grow.
    for offset in [0.0, 3.0] {
        let query_scale = Some(Rc::new(QueryScale::new(0.5, 8.0, offset)));
        agrees(&AttentionSpec { query_scale, ..plain.clone() }, 8);
    }
    let rope = Rc::new(Rope::new(inv_freq(4), false, 64).with_gain(1.25));
    agrees(&AttentionSpec { rope: Some(rope), ..plain }, 4);
}

/// From far below all scores to far above them.
#[test]
fn sinks_take_their_part_of_the_weights() {
    let sinks = Some(Array::from_slice(&[-40.0_f32, 0.0, 1.5, 40.0], &[HEADS.queries]));
    let plain = AttentionSpec { sinks, ..AttentionSpec::causal(HEADS, rope(8, false)) };
    agrees(&plain, 8);
    for window in [1, 7, 1000] {
        agrees(&AttentionSpec { window: Some(window), ..plain.clone() }, 8);
    }
    agrees(&AttentionSpec { soft_cap: Some(2.0), window: Some(7), ..plain }, 8);
}

#[test]
fn what_kernels_cannot_compute_is_refused() {
    let wide = AttentionSpec::causal(Heads { dim: 8192, ..HEADS }, None);
    let unsupported = |kernels| Backend::new(kernels, Dtype::Float32).unsupported(&wide);
    assert!(unsupported(Kernels::Cpu).is_some_and(|what| what.contains("size")));
    assert_eq!(unsupported(Kernels::Mlx), None);
}

/// `y = activation(gate) * up` of gates and ups on both sides of where they are bounded.
#[test]
fn gated_products_agree_with_float64() {
    let (rows, width) = (3, 32);
    let x = numbers(rows * width, 8);
    let eye: Vec<f32> = (0..width * width).map(|i| if i % (width + 1) == 0 { 1.0 } else { 0.0 }).collect();
    for backend in backends() {
        // Twelve times x meets minus ten times x.
        let matrix = |factor: f32| {
            let values: Vec<f32> = eye.iter().map(|value| value * factor).collect();
            let storage = Storage::Dense(Array::from_slice(&values, &[width, width]));
            backend.matrix(storage, None).unwrap()
        };
        let matrices = [matrix(12.0), matrix(-10.0)];
        for gate in [Gate::Silu, Gate::GeluTanh, Gate::SwigluOai] {
            let x_array = Array::from_slice(&x, &[rows, width]);
            let job =
                Linear { x: &x_array, norm: None, matrices: &matrices, gate: Some(gate), residual: None };
            let y = backend.linear(&job).unwrap();
            eval([&y]).unwrap();
            for (found, x) in y.as_slice::<f32>().iter().zip(&x) {
                let expected = gated(gate, f64::from(*x) * 12.0, f64::from(*x) * -10.0);
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-4,
                    "{found}, not {expected}: {gate:?}, {backend:?}"
                );
            }
        }
    }
}

fn gated(gate: Gate, x: f64, up: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match gate {
        Gate::Silu => x * sigmoid(x) * up,
        Gate::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x * (1.0 + inner.tanh()) / 2.0 * up
        }
        Gate::SwigluOai => x.min(7.0) * sigmoid(1.702 * x.min(7.0)) * (up.clamp(-7.0, 7.0) + 1.0),
    }
}

/// A normalization that no product follows treats each row alone, to the last bit.
#[test]
fn a_row_s_normalization_does_not_depend_on_other_rows() {
    let (rows, width) = (7, 40);
    let values = numbers(rows * width, 2);
    let x = Array::from_slice(&values, &[rows, width]);
    let weight = numbers(width, 3);
    for backend in backends() {
        let norm = backend.norm(NormKind::Rms, &Array::from_slice(&weight, &[width]), None, 1e-5).unwrap();
        let normed =
            |x: &Array| backend.rowwise(&Rowwise { norms: &[(&norm, 1)], ..Rowwise::of(x) }).unwrap();
        let all = normed(&x);
        eval([&all]).unwrap();
        for row in 0..rows {
            let one = normed(&x.try_index(row..row + 1).unwrap());
            eval([&one]).unwrap();
            let place = (row * width) as usize..((row + 1) * width) as usize;
            assert_eq!(one.as_slice::<f32>(), &all.as_slice::<f32>()[place.clone()], "row {row}");
            let mean = values[place.clone()].iter().map(|v| f64::from(v * v)).sum::<f64>() / f64::from(width);
            for ((x, w), y) in values[place].iter().zip(&weight).zip(one.as_slice::<f32>()) {
                let expected = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w);
                assert!((f64::from(*y) - expected).abs() < 1e-5);
            }
        }
    }
}

/// Normalizations of pieces, a factor, a cap and a residual, on both backends.
#[test]
fn what_is_done_with_a_row_agrees_with_float64() {
    let (rows, width, dim) = (5, 44, 12);
    let (values, residual) = (numbers(rows * width, 4), numbers(rows * width, 5));
    let (weight, bias) = (numbers(dim, 6), numbers(dim, 7));
    let array = |values: &[f32], shape: &[i32]| Array::from_slice(values, shape);
    let (x, added) = (array(&values, &[rows, width]), array(&residual, &[rows, width]));
    for backend in backends() {
        for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
            let stored_bias = (kind == NormKind::Layer).then(|| array(&bias, &[dim]));
            let norm = backend.norm(kind, &array(&weight, &[dim]), stored_bias.as_ref(), 1e-5).unwrap();
            let gelu = kind == NormKind::Layer;
            let job = Rowwise {
                norms: &[(&norm, 3)],
                gelu,
                factor: 1.5,
                soft_cap: Some(2.0),
                residual: Some(&added),
                ..Rowwise::of(&x)
            };
            let y = backend.rowwise(&job).unwrap();
            eval([&y]).unwrap();
            for (i, found) in y.as_slice::<f32>().iter().enumerate() {
                let (row, column) = (i / width as usize, i % width as usize);
                let piece = column / dim as usize;
                let normed = if piece < 3 {
                    let from = row * width as usize + piece * dim as usize;
                    normed(kind, &values[from..from + dim as usize], column % dim as usize, &weight, &bias)
                } else {
                    f64::from(values[i])
                };
                let normed = if gelu { normed * (1.0 + erf(normed / 2.0_f64.sqrt())) / 2.0 } else { normed };
                let expected = 2.0 * (normed * 1.5 / 2.0).tanh() + f64::from(residual[i]);
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-5,
                    "{found}, not {expected}: {kind:?}, {backend:?}"
                );
            }
        }
    }
}

/// The error function, by its power series.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn normed(kind: NormKind, x: &[f32], at: usize, weight: &[f32], bias: &[f32]) -> f64 {
    let mean_of = |of: &dyn Fn(f64) -> f64| x.iter().map(|v| of(f64::from(*v))).sum::<f64>() / x.len() as f64;
    let mean = if kind == NormKind::Layer { mean_of(&|v| v) } else { 0.0 };
    let size = (mean_of(&|v| (v - mean).powi(2)) + 1e-5).sqrt();
    let (weight, bias) = (f64::from(weight[at]), f64::from(bias[at]));
    let normed = (f64::from(x[at]) - mean) / size;
    match kind {
        NormKind::Rms => normed * weight,
        NormKind::RmsPlusOne => normed * (1.0 + weight),
        NormKind::Layer => normed * weight + bias,
    }
}

#[test]
fn kernels_follow_the_device() {
    assert_eq!(Kernels::of(Device::Cpu), Kernels::Cpu);
    assert_eq!(Kernels::of(Device::Gpu), Kernels::Mlx);
    assert_eq!(Kernels::Cpu.with_int8_activations(), Kernels::CpuInt8);
    assert_eq!(Kernels::Mlx.with_int8_activations(), Kernels::Mlx);
}
