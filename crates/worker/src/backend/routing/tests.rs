//! Choosing experts on both backends, against plain sorting in float64.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::{
    Backend, ExpertSizes, Gate, Mix, Storage, StoredExperts, StoredMatrices,
    tests::{backends, numbers},
};

const TOKENS: i32 = 40;
const EXPERTS: i32 = 12;
const INPUTS: i32 = 32;

/// What experts give with their weights: each a component of its own, which is its weight.
fn mixed(
    backend: Backend,
    router: &[f32],
    rule: RoutingRule,
    correction: Option<&[f32]>,
    factors: Option<&[f32]>,
) -> Vec<f32> {
    let zeros = |rows: i32, columns: i32| vec![0.0_f32; (rows * columns) as usize];
    let matrix = |values: &[f32], rows: i32, columns: i32| {
        let array = Array::from_slice(values, &[rows, columns]);
        array.eval().unwrap();
        Storage::Dense(array)
    };
    // silu(32) is 32.
    let one = |value: f32| {
        let mut values = zeros(INPUTS, INPUTS);
        values[0] = value;
        matrix(&values, INPUTS, INPUTS)
    };
    let down = |expert: i32| {
        let mut values = zeros(EXPERTS, INPUTS);
        values[(expert * INPUTS) as usize] = 1.0;
        matrix(&values, EXPERTS, INPUTS)
    };
    let part = |make: &dyn Fn(i32) -> Storage| {
        let matrices = StoredMatrices::Separate((0..EXPERTS).map(make).collect());
        StoredExperts { matrices, bias: None }
    };
    let stored = [part(&|_| one(32.0)), part(&|_| one(1.0 / 32.0)), part(&down)];
    let experts = backend.experts(stored, ExpertSizes { count: EXPERTS, inputs: INPUTS, inner: INPUTS });
    let mut x = zeros(TOKENS, INPUTS);
    x.iter_mut().step_by(INPUTS as usize).for_each(|first| *first = 1.0);
    let x = Array::from_slice(&x, &[TOKENS, INPUTS]);
    let router = Array::from_slice(router, &[TOKENS, EXPERTS]);
    let of_experts = |values: &[f32]| Array::from_slice(values, &[EXPERTS]);
    let (correction, factors) = (correction.map(of_experts), factors.map(of_experts));
    let (correction, factors) = (correction.as_ref(), factors.as_ref());
    let routing = Routing { router: &router, rule, correction, factors };
    let job = Mix { x: &x, routing, gate: Gate::Silu, residual: None };
    let y = backend.mix(&job, &experts.unwrap()).unwrap();
    y.eval().unwrap();
    y.as_slice::<f32>().to_vec()
}

/// Indices of the largest values.
fn largest(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(count);
    order
}

/// Of a token.
fn expected(
    router: &[f32],
    rule: RoutingRule,
    correction: Option<&[f32]>,
    factors: Option<&[f32]>,
) -> Vec<f64> {
    let outputs: Vec<f64> = router.iter().map(|&value| f64::from(value)).collect();
    let sum: f64 = outputs.iter().map(|output| output.exp()).sum();
    let score = |output: f64| match rule.scores {
        Scores::Softmax => output.exp() / sum,
        Scores::Sigmoid => 1.0 / (1.0 + (-output).exp()),
    };
    let scores: Vec<f64> = outputs.into_iter().map(score).collect();
    let added = |expert: usize| correction.map_or(0.0, |all| f64::from(all[expert]));
    let mut compared: Vec<f64> =
        scores.iter().enumerate().map(|(expert, score)| score + added(expert)).collect();
    if let Some(groups) = rule.groups {
        let size = compared.len() / groups.count as usize;
        let best = |group: &[f64]| -> f64 {
            largest(group, groups.best as usize).into_iter().map(|index| group[index]).sum()
        };
        let kept = largest(&compared.chunks(size).map(best).collect::<Vec<_>>(), groups.chosen as usize);
        for (group, experts) in compared.chunks_mut(size).enumerate() {
            if !kept.contains(&group) {
                experts.fill(f64::NEG_INFINITY);
            }
        }
    }
    let chosen = largest(&compared, rule.chosen as usize);
    let sum: f64 = if rule.normalized { chosen.iter().map(|&expert| scores[expert]).sum() } else { 1.0 };
    let is_padded = rule.normalized && rule.scores == Scores::Sigmoid;
    let sum = sum + if is_padded { f64::from(rule.least_sum) } else { 0.0 };
    let mut weights = vec![0.0; scores.len()];
    for expert in chosen {
        let own = factors.map_or(1.0, |all| f64::from(all[expert]));
        let weight = scores[expert] / sum * f64::from(rule.factor) * own;
        // What experts make of it where it comes first.
        let silu = 32.0 * weight / (1.0 + (-32.0 * weight).exp());
        weights[expert] = if rule.weighs_inputs { silu * weight / 32.0 } else { weight };
    }
    weights
}

#[test]
fn experts_are_chosen_by_every_rule() {
    let softmax = RoutingRule::softmax(3, false);
    let sigmoid = RoutingRule { scores: Scores::Sigmoid, factor: 2.5, ..softmax };
    let groups = |count, chosen, best| Some(Groups { count, chosen, best });
    let router: Vec<f32> = numbers(TOKENS * EXPERTS, 3).into_iter().map(|value| 3.0 * value).collect();
    // Some of them outweigh scores, some are below 0.
    let (correction, factors) = (numbers(EXPERTS, 4), numbers(EXPERTS, 5));
    for rule in [
        softmax,
        RoutingRule { normalized: true, ..softmax },
        RoutingRule { groups: groups(4, 2, 1), factor: 16.0, ..softmax },
        sigmoid,
        RoutingRule { normalized: true, ..sigmoid },
        RoutingRule { normalized: true, least_sum: 0.5, ..sigmoid },
        RoutingRule { groups: groups(4, 2, 2), normalized: true, ..sigmoid },
        RoutingRule { groups: groups(3, 1, 2), ..sigmoid },
        RoutingRule { chosen: 1, factor: 1.0, weighs_inputs: true, ..sigmoid },
        RoutingRule { chosen: EXPERTS, ..sigmoid },
    ] {
        for (correction, factors) in [
            (None, None),
            (Some(&correction[..]), None),
            (None, Some(&factors[..])),
            (Some(&correction[..]), Some(&factors[..])),
        ] {
            let expected: Vec<f64> = router
                .chunks(EXPERTS as usize)
                .flat_map(|router| expected(router, rule, correction, factors))
                .collect();
            for backend in backends() {
                let found = mixed(backend, &router, rule, correction, factors);
                assert_eq!(found.len(), expected.len());
                for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let difference = (f64::from(*found) - expected).abs();
                    assert!(
                        difference <= 1e-5 * rule.factor as f64,
                        "{rule:?}, {index}: {found}, {expected}"
                    );
                }
            }
        }
    }
}

/// Of equal scores the first ones are taken on the CPU, whatever else is in the batch; scores that are all 0 divide nothing.
#[test]
fn scores_without_differences_are_no_problem() {
    let sigmoid = RoutingRule { scores: Scores::Sigmoid, normalized: true, ..RoutingRule::softmax(3, true) };
    for backend in backends() {
        let found = mixed(backend, &vec![-200.0; (TOKENS * EXPERTS) as usize], sigmoid, None, None);
        assert!(found.iter().all(|weight| weight.is_finite()), "{backend:?}");
        let found = mixed(backend, &vec![0.5; (TOKENS * EXPERTS) as usize], sigmoid, None, None);
        for token in found.chunks(EXPERTS as usize) {
            assert_eq!(token.iter().filter(|weight| **weight > 0.0).count(), 3);
            assert!((token.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
