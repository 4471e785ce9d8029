//! Layers with a state, and gates: against plain float64 arithmetic, and what holds of their results bit for bit.

use std::f64::consts::FRAC_2_PI;

use mlx_ext::cpu::{
    Activation, Convolution, Gated, GatedDelta, StatePool, StateRow, StateStep, columns, convolution, gated,
    gated_delta,
};
use mlx_rs::{Array, transforms::eval};
use proptest::prelude::*;

use crate::support::{Random, bits, cases};

/// Floats before a layer's own part of a state, which must stay as they are.
const STATE_AT: usize = 5;

/// Absolute, of results near 1: some hundred roundings.
const TOLERANCE: f64 = 1e-5;

/// A layer, as plain numbers.
enum Layer {
    Convolution { channels: i32, weight: Vec<f32>, bias: Option<Vec<f32>>, gated: bool },
    Delta { heads: [i32; 2], dims: [i32; 2], log_rates: Vec<f32>, biases: Vec<f32> },
}

/// Inputs of one sequence.
struct Inputs {
    tokens: i32,
    x: Vec<f32>,
    /// Of a delta rule.
    gates: Vec<f32>,
}

impl Layer {
    fn random(random: &mut Random, delta: bool) -> Self {
        let normals = |random: &mut Random, count: i32| (0..count).map(|_| random.normal()).collect();
        if delta {
            let keys = 1 + random.below(3) as i32;
            let values = keys * (1 + random.below(3) as i32);
            let dims = [1 + random.below(40) as i32, 1 + random.below(70) as i32];
            let log_rates = (0..values).map(|_| random.between(-3.0, 2.5)).collect();
            return Self::Delta { heads: [keys, values], dims, log_rates, biases: normals(random, values) };
        }
        let (channels, taps) = (1 + random.below(150) as i32, 1 + random.below(6) as i32);
        let weight = normals(random, channels * taps);
        let bias = (random.below(2) == 0).then(|| normals(random, channels));
        Self::Convolution { channels, weight, bias, gated: random.below(2) == 0 }
    }

    fn widths(&self) -> [i32; 3] {
        match self {
            Self::Convolution { channels, gated, .. } => {
                [if *gated { 3 * channels } else { *channels }, 0, *channels]
            }
            Self::Delta { heads: [keys, values], dims: [key, value], .. } => {
                [2 * keys * key + values * value, 2 * values, values * value]
            }
        }
    }

    fn state(&self) -> usize {
        let floats = match self {
            Self::Convolution { channels, weight, .. } => weight.len() as i32 - channels,
            Self::Delta { heads, dims, .. } => heads[1] * dims[0] * dims[1],
        };
        STATE_AT + floats as usize
    }

    fn inputs(&self, random: &mut Random, tokens: i32) -> Inputs {
        let [width, gates, _] = self.widths();
        let mut x: Vec<f32> = (0..tokens * width).map(|_| random.normal()).collect();
        if let Self::Delta { heads, dims, .. } = self {
            // Queries and keys of length 1 or less.
            let keys = (2 * heads[0] * dims[0]) as usize;
            let shorter = (dims[0] as f32).sqrt() * 2.0;
            x.chunks_mut(width as usize).for_each(|row| row[..keys].iter_mut().for_each(|x| *x /= shorter));
        }
        Inputs { tokens, x, gates: (0..tokens * gates).map(|_| 2.0 * random.normal()).collect() }
    }

    /// Of all rows' tokens.
    fn compute(&self, step: &StateStep, inputs: &[&Inputs]) -> Array {
        let [width, gates, _] = self.widths();
        let tokens = inputs.iter().map(|inputs| inputs.tokens).sum();
        let x: Vec<f32> = inputs.iter().flat_map(|inputs| inputs.x.iter().copied()).collect();
        let x = Array::from_slice(&x, &[tokens, width]);
        match self {
            Self::Convolution { channels, weight, bias, gated } => {
                let weight = Array::from_slice(weight, &[weight.len() as i32 / channels, *channels]);
                let bias = bias.as_ref().map(|bias| Array::from_slice(bias, &[*channels]));
                let (x, weight, bias) = (&x, &weight, bias.as_ref());
                let job = Convolution { x, weight, bias, gated: *gated, silu: !gated, state_at: STATE_AT };
                convolution(step, &job).unwrap()
            }
            Self::Delta { heads, dims, log_rates, biases } => {
                let all: Vec<f32> = inputs.iter().flat_map(|inputs| inputs.gates.iter().copied()).collect();
                gated_delta(
                    step,
                    &GatedDelta {
                        qkv: &x,
                        gates: &Array::from_slice(&all, &[tokens, gates]),
                        log_rates: &Array::from_slice(log_rates, &[heads[1]]),
                        biases: &Array::from_slice(biases, &[heads[1]]),
                        key_heads: heads[0],
                        value_heads: heads[1],
                        key_dim: dims[0],
                        value_dim: dims[1],
                        state_at: STATE_AT,
                    },
                )
                .unwrap()
            }
        }
    }

    /// In float64.
    fn expected(&self, inputs: &Inputs) -> Vec<f64> {
        let x: Vec<f64> = inputs.x.iter().map(|&x| f64::from(x)).collect();
        match self {
            Self::Convolution { channels, weight, bias, gated } => {
                convolved(&x, *channels as usize, weight, bias.as_deref(), *gated)
            }
            Self::Delta { heads, dims, log_rates, biases } => {
                let gates: Vec<f64> = inputs.gates.iter().map(|&gate| f64::from(gate)).collect();
                learned(&x, &gates, heads.map(|n| n as usize), dims.map(|n| n as usize), [log_rates, biases])
            }
        }
    }
}

impl Inputs {
    /// Some of the tokens.
    fn part(&self, from: i32, to: i32) -> Self {
        let part = |all: &[f32]| {
            let width = all.len() / self.tokens as usize;
            all[from as usize * width..to as usize * width].to_vec()
        };
        Self { tokens: to - from, x: part(&self.x), gates: part(&self.gates) }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn convolved(x: &[f64], channels: usize, weight: &[f32], bias: Option<&[f32]>, gated: bool) -> Vec<f64> {
    let taps = weight.len() / channels;
    let width = if gated { 3 * channels } else { channels };
    let tokens = x.len() / width;
    let input = |token: usize, channel: usize| {
        let row = &x[token * width..];
        if gated { row[channel] * row[2 * channels + channel] } else { row[channel] }
    };
    let mut all = Vec::new();
    for token in 0..tokens {
        for channel in 0..channels {
            let mut sum = bias.map_or(0.0, |bias| f64::from(bias[channel]));
            for tap in (0..taps).filter(|tap| token + tap + 1 >= taps) {
                let weight = f64::from(weight[tap * channels + channel]);
                sum += weight * input(token + tap + 1 - taps, channel);
            }
            all.push(if gated { sum * x[token * width + channels + channel] } else { sum * sigmoid(sum) });
        }
    }
    all
}

fn learned(
    x: &[f64],
    gates: &[f64],
    [keys, values]: [usize; 2],
    [key_dim, value_dim]: [usize; 2],
    [log_rates, biases]: [&[f32]; 2],
) -> Vec<f64> {
    let width = 2 * keys * key_dim + values * value_dim;
    let mut states = vec![0.0; values * key_dim * value_dim];
    let mut all = Vec::new();
    for (row, gates) in x.chunks(width).zip(gates.chunks(2 * values)) {
        for (head, state) in states.chunks_mut(key_dim * value_dim).enumerate() {
            let shared = head / (values / keys) * key_dim;
            let (query, key) = (&row[shared..][..key_dim], &row[keys * key_dim + shared..][..key_dim]);
            let value = &row[2 * keys * key_dim + head * value_dim..][..value_dim];
            let time = (gates[values + head] + f64::from(biases[head])).exp().ln_1p();
            let decay = (-f64::from(log_rates[head]).exp() * time).exp();
            state.iter_mut().for_each(|state| *state *= decay);
            for (column, value) in value.iter().enumerate() {
                let at = |row: usize| row * value_dim + column;
                let known: f64 = (0..key_dim).map(|row| state[at(row)] * key[row]).sum();
                let change = sigmoid(gates[head]) * (value - known);
                (0..key_dim).for_each(|row| state[at(row)] += key[row] * change);
                all.push((0..key_dim).map(|row| state[at(row)] * query[row]).sum());
            }
        }
    }
    all
}

fn row(new_tokens: i32, from: Option<i32>, to: i32) -> StateRow<'static> {
    StateRow { new_tokens, from, to, snapshots: &[] }
}

#[track_caller]
fn check(found: &Array, expected: &[f64]) {
    let found = found.flatten(None, None).unwrap();
    eval([&found]).unwrap();
    let found = found.as_slice::<f32>();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let allowed = TOLERANCE * (1.0 + expected.abs());
        assert!((f64::from(*found) - expected).abs() <= allowed, "{found}, not {expected}");
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn results_are_those_of_float64(seed: u64, delta: bool) {
        let mut random = Random::new(seed);
        let layer = Layer::random(&mut random, delta);
        let tokens = 1 + random.below(60) as i32;
        let inputs = layer.inputs(&mut random, tokens);
        let pool = StatePool::new(layer.state(), 2).unwrap();
        let step = pool.step(&[row(inputs.tokens, None, 1)]).unwrap();
        check(&layer.compute(&step, &[&inputs]), &layer.expected(&inputs));
    }

    /// A sequence in one piece; in two pieces beside another one; and once more from a snapshot that the first of them has
    /// made on its way.
    #[test]
    fn cuts_other_rows_and_snapshots_change_no_bit(seed: u64, delta: bool) {
        let mut random = Random::new(seed);
        let layer = Layer::random(&mut random, delta);
        let tokens = 3 + random.below(60) as i32;
        let inputs = layer.inputs(&mut random, tokens);
        let others = 1 + random.below(20) as i32;
        let other = layer.inputs(&mut random, others);
        let cut = 2 + random.below(tokens as usize - 2) as i32;
        let snapshot = 1 + random.below(cut as usize - 1) as i32;
        let pool = StatePool::new(layer.state(), 8).unwrap();
        let all = |rows: &[StateRow<'_>], inputs: &[&Inputs]| {
            bits(&layer.compute(&pool.step(rows).unwrap(), inputs))
        };
        let whole = all(&[row(tokens, None, 0)], &[&inputs]);
        let (first, second) = (inputs.part(0, cut), inputs.part(cut, tokens));
        let first_row = StateRow { snapshots: &[(snapshot, 3)], ..row(cut, None, 2) };
        let width = whole.len() / tokens as usize;
        let found = all(&[row(others, None, 1), first_row], &[&other, &first]);
        prop_assert_eq!(&found[others as usize * width..], &whole[..cut as usize * width]);
        let found = all(&[row(tokens - cut, Some(2), 4), row(others, Some(1), 5)], &[&second, &other]);
        prop_assert_eq!(&found[..(tokens - cut) as usize * width], &whole[cut as usize * width..]);
        let rest = inputs.part(snapshot, tokens);
        let found = all(&[row(tokens - snapshot, Some(3), 6)], &[&rest]);
        prop_assert_eq!(&found[..], &whole[snapshot as usize * width..]);
        // The states are still there.
        let found = all(&[row(tokens - cut, Some(2), 7)], &[&second]);
        prop_assert_eq!(&found[..], &whole[cut as usize * width..]);
    }

    #[test]
    fn gates_are_those_of_float64(seed: u64, which in 0..3_usize, one_a_row: bool, has_residual: bool) {
        let mut random = Random::new(seed);
        let (rows, width) = (1 + random.below(9) as i32, 1 + random.below(40) as i32);
        let numbers = |random: &mut Random, width: i32| random.normals(&[rows, width]);
        let (x, residual) = (numbers(&mut random, width), numbers(&mut random, width));
        let gate_width = if one_a_row { 1 } else { width };
        let gate = numbers(&mut random, gate_width);
        let activation = [Activation::Sigmoid, Activation::Silu, Activation::GeluTanh][which];
        let residual = has_residual.then_some(&residual);
        let found = gated(&Gated { x: &x, gate: &gate, activation, residual }).unwrap();
        let of = |array: &Array, index: i32| f64::from(array.as_slice::<f32>()[index as usize]);
        let expected = |index: i32| {
            let gate = of(&gate, if one_a_row { index / width } else { index });
            let factor = match activation {
                Activation::Sigmoid => sigmoid(gate),
                Activation::Silu => gate * sigmoid(gate),
                Activation::GeluTanh => {
                    let inner = FRAC_2_PI.sqrt() * (gate + 0.044_715 * gate.powi(3));
                    gate * (1.0 + inner.tanh()) / 2.0
                }
            };
            residual.map_or(0.0, |residual| of(residual, index)) + factor * of(&x, index)
        };
        check(&found, &(0..rows * width).map(expected).collect::<Vec<_>>());
    }
}

#[test]
fn columns_come_in_the_order_that_is_asked_for() {
    let x = Random::new(1).array(&[2, 5], {
        let mut next = 0.0;
        move |_| {
            next += 1.0;
            next
        }
    });
    let found = columns(&x, &[3..5, 0..1]).unwrap();
    eval([&found]).unwrap();
    assert_eq!(found.as_slice::<f32>(), [4.0, 5.0, 1.0, 9.0, 10.0, 6.0]);
    assert!(columns(&x, &[0..1, 4..6]).is_err() && columns(&x, &[]).is_err());
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    Random::new(1);
    let pool = StatePool::new(8, 3).unwrap();
    let refused = |rows: &[StateRow<'_>]| pool.step(rows).is_err();
    assert!(!refused(&[row(2, None, 0), row(1, Some(1), 2)]));
    assert!(refused(&[row(0, None, 0)]) && refused(&[row(1, None, 3)]) && refused(&[row(1, Some(-1), 0)]));
    assert!(refused(&[row(1, None, 0), row(1, None, 0)]), "written twice");
    assert!(refused(&[row(1, None, 0), row(1, Some(0), 1)]), "read and written");
    for snapshots in [&[(0, 1)][..], &[(3, 1)], &[(2, 1), (1, 2)], &[(1, 0)]] {
        assert!(refused(&[StateRow { snapshots, ..row(3, None, 0) }]), "{snapshots:?}");
    }
    assert!(StatePool::new(0, 1).is_err() && StatePool::new(1, 0).is_err());
    // A layer whose state is larger than the pool's.
    let step = pool.step(&[row(2, None, 0)]).unwrap();
    let (x, weight) = (Array::from_slice(&[0.0; 8], &[2, 4]), Array::from_slice(&[0.0; 16], &[4, 4]));
    let job = Convolution { x: &x, weight: &weight, bias: None, gated: false, silu: true, state_at: 0 };
    assert!(convolution(&step, &job).is_err());
}
