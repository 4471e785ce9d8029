//! `cpu::experts` against float64.

use mlx_ext::cpu::{self, ExpertSet, Experts, Gate, Routing};
use mlx_rs::Array;
use proptest::prelude::*;

use crate::support::{
    Expected, ROUNDING, Random, cases, number,
    products::{Storage, Weights, evaluated, feed_forward},
    wide,
};

const GATES: [Gate; 3] = [Gate::Silu, Gate::GeluTanh, Gate::SwigluOai];

/// A layer's experts: gates, ups and downs.
struct Layer {
    parts: [Vec<Weights>; 3],
    inputs: i32,
    inner: i32,
}

#[test]
fn experts_of_every_storage() {
    for storage in Storage::all() {
        proptest!(cases(6), |(rows in 1..=40_i32, groups in 1..=3_i32, inner_groups in 1..=2_i32, count in 1..=9_i32,
                              seed: u64, normalized: bool, gate in prop::sample::select(GATES.as_slice()), added: bool)| {
            let random = &mut Random::new(seed);
            let layer = Layer::new(random, storage, count, groups, inner_groups);
            let set = layer.set();
            let x = random.activations(rows, layer.inputs);
            let router = random.array(&[rows, count], |random| 5.0 * random.normal());
            let residual = added.then(|| random.normals(&[rows, layer.inputs]));
            let chosen = 1 + random.below(count as usize) as i32;
            let residual = residual.as_ref();
            let routing = Routing::softmax(chosen, normalized);
            let job = Experts { x: &x, router: &router, routing, set: &set, gate, residual, int8: false };
            let y = cpu::experts(&job).unwrap();
            y.eval().unwrap();
            layer.expected(&job).check(&y);
        });
    }
}

impl Layer {
    fn new(random: &mut Random, storage: Storage, count: i32, groups: i32, inner_groups: i32) -> Self {
        let size = |groups: i32| storage.group().max(32) * groups;
        let (inputs, inner) = (size(groups), size(inner_groups));
        let mut part =
            |outputs, inputs| (0..count).map(|_| Weights::new(random, storage, outputs, inputs)).collect();
        Self { parts: [part(inner, inputs), part(inner, inputs), part(inputs, inner)], inputs, inner }
    }

    fn set(&self) -> ExpertSet {
        let matrices = self.parts.each_ref().map(|part| part.iter().map(evaluated).collect::<Vec<_>>());
        ExpertSet::new(matrices.each_ref().map(Vec::as_slice), self.inputs, self.inner).unwrap()
    }

    fn expected(&self, job: &Experts<'_>) -> Expected {
        let weights = weights_of(job);
        let zeros = number(0.0) * wide(job.x);
        let (mut value, mut error, mut sizes) = (zeros.clone(), zeros.clone(), zeros);
        let [gates, ups, downs] = &self.parts;
        for (expert, weight) in weights.iter().enumerate() {
            let made = feed_forward(job.x, job.gate, [&gates[expert], &ups[expert], &downs[expert]]);
            let size = made.value.abs().unwrap() * &weight.value;
            error +=
                &(&made.error * (&weight.value + &weight.error) + made.value.abs().unwrap() * &weight.error);
            value += &(made.value * &weight.value);
            sizes += &size;
        }
        if let Some(residual) = job.residual {
            value += &wide(residual);
            sizes += &wide(residual).abs().unwrap();
        }
        // A product and an addition of each expert.
        let roundings = 2.0 * f64::from(job.routing.chosen) + 1.0;
        error += &((sizes + &error) * number(roundings * ROUNDING));
        Expected { value, error }
    }
}

/// Each expert's weight of every row, float64 `[rows, 1]`; 0 where it is not chosen.
///
/// What an exponential is taken of has one rounding of its own size, and the exponential two; its sum has one for each
/// expert.
fn weights_of(job: &Experts<'_>) -> Vec<Expected> {
    let (rows, count) = (job.router.dim(0) as usize, job.router.dim(1) as usize);
    let (mut values, mut errors) = (vec![vec![0.0; rows]; count], vec![vec![0.0; rows]; count]);
    for (row, outputs) in job.router.as_slice::<f32>().chunks(count).enumerate() {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| outputs[b].total_cmp(&outputs[a]).then(a.cmp(&b)));
        let chosen = &order[..job.routing.chosen as usize];
        let power = |expert: usize| f64::from(outputs[expert]) - f64::from(outputs[order[0]]);
        let summed = if job.routing.normalized { chosen } else { &order };
        let sum: f64 = summed.iter().map(|&expert| power(expert).exp()).sum();
        let farthest = summed.iter().map(|&expert| power(expert).abs()).fold(0.0, f64::max);
        for &expert in chosen {
            values[expert][row] = power(expert).exp() / sum;
            errors[expert][row] = values[expert][row] * (2.0 * farthest + 8.0 + count as f64) * ROUNDING;
        }
    }
    let column = |values: &[f64]| Array::from_slice_f64(values, &[rows as i32, 1]);
    values
        .iter()
        .zip(&errors)
        .map(|(value, error)| Expected { value: column(value), error: column(error) })
        .collect()
}
