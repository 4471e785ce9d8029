//! `cpu::rowwise` against float64.

use mlx_ext::cpu::{self, NormKind, NormedPart, Rowwise};
use mlx_rs::{
    Array,
    ops::{concatenate, indexing::TryIndexOp},
};
use proptest::prelude::*;

use crate::support::{
    Expected, ROUNDING, Random, cases, exponential, number,
    products::{normalized, roundings_of_a_sum},
    wide,
};

const EPS: f32 = 1e-5;

/// Norms of some pieces of each row, the rest of it as it is, a factor, a soft cap, a residual.
#[test]
fn all_that_is_done_with_rows() {
    proptest!(cases(128), |(rows in 1..=70_i32, width in 1..=200_i32, pieces in 1..=3_i32, rest in 0..=20_i32,
                            seed: u64, layer: bool, biased: bool, capped: bool, added: bool)| {
        let random = &mut Random::new(seed);
        let x = random.activations(rows, width * pieces + rest);
        let (weight, bias) = (random.normals(&[width]), random.normals(&[width]));
        let residual = added.then(|| random.normals(x.shape()));
        let kind = if layer { NormKind::Layer } else { NormKind::Rms };
        let bias = (layer && biased).then_some(&bias);
        let part = NormedPart { kind, weight: &weight, bias, eps: EPS, count: pieces };
        let (factor, soft_cap) = ([1.0, 0.3][random.below(2)], capped.then_some(3.0));
        let job = Rowwise { x: &x, parts: &[part], factor, soft_cap, gelu: false, residual: residual.as_ref() };
        expected(&job).check(&computed(&job));
    });
}

/// What is so far from 0 that its cap is all that remains, and what is so near that nothing of it is taken.
#[test]
fn caps_hold() {
    let random = &mut Random::new(30);
    let x = random.array(&[5, 77], |random| 10_f32.powi(random.below(12) as i32 - 4) * random.normal());
    for soft_cap in [0.5, 30.0, 50.0] {
        let job =
            Rowwise { x: &x, parts: &[], factor: 1.0, soft_cap: Some(soft_cap), gelu: false, residual: None };
        expected(&job).check(&computed(&job));
    }
}

fn computed(job: &Rowwise<'_>) -> Array {
    let y = cpu::rowwise(job).unwrap();
    y.eval().unwrap();
    y
}

fn expected(job: &Rowwise<'_>) -> Expected {
    let x = wide(job.x);
    let mut y = Expected { error: &x * number(0.0), value: x };
    let mut first = 0;
    for part in job.parts {
        for _ in 0..part.count {
            let width = part.weight.dim(0);
            y = replaced(y, first, normed(part, job.x, first..first + width));
            first += width;
        }
    }
    if job.factor != 1.0 {
        y.value *= &number(job.factor.into());
        y.error *= &number(job.factor.into());
        y.error += &(y.value.abs().unwrap() * number(2.0 * ROUNDING));
    }
    if let Some(cap) = job.soft_cap {
        y = capped(&y, cap.into());
    }
    if let Some(residual) = job.residual {
        y.value += &wide(residual);
        y.error += &((y.value.abs().unwrap() + &y.error) * number(ROUNDING));
    }
    y
}

/// `part` in the place of as many columns from `first` on.
fn replaced(whole: Expected, first: i32, part: Expected) -> Expected {
    let of = |whole: &Array, part: &Array| {
        let (before, behind) = (whole.try_index((.., ..first)), whole.try_index((.., first + part.dim(1)..)));
        concatenate(&[&before.unwrap(), part, &behind.unwrap()], 1).unwrap()
    };
    Expected { value: of(&whole.value, &part.value), error: of(&whole.error, &part.error) }
}

fn normed(part: &NormedPart<'_>, x: &Array, columns: std::ops::Range<i32>) -> Expected {
    let x = wide(&x.try_index((.., columns)).unwrap());
    match part.kind {
        NormKind::Rms => normalized(&x, part.weight, part.eps),
        NormKind::Layer => layer_normalized(&x, part),
    }
}

/// The mean is off by the roundings of its sum, which moves all values, and with them the variance.
fn layer_normalized(x: &Array, part: &NormedPart<'_>) -> Expected {
    let sum = f64::from(roundings_of_a_sum(x.dim(1)));
    let mean_of = |x: &Array| x.mean_axis(1, true).unwrap();
    let mean = mean_of(x);
    let mean_error = mean_of(&x.abs().unwrap()) * number((sum + 1.0) * ROUNDING);
    let apart = x - &mean;
    let apart_error = apart.abs().unwrap() * number(ROUNDING) + &mean_error;

    let variance = mean_of(&(&apart * &apart)) + number(f64::from(part.eps));
    let deviation = variance.sqrt().unwrap();
    let variance_error = mean_of(&(apart.abs().unwrap() * &apart_error)) * number(2.0)
        + mean_of(&(&apart_error * &apart_error))
        + &variance * number(2.0 * (sum + 2.0) * ROUNDING);
    // The root halves a relative error; 0.6 is for its second order.
    let relative = variance_error / &variance * number(0.6) + number(5.0 * ROUNDING);

    let weight = wide(part.weight);
    let mut value = &apart / &deviation * &weight;
    let mut error =
        value.abs().unwrap() * relative + apart_error / &deviation * weight.abs().unwrap() * number(1.01);
    if let Some(bias) = part.bias {
        value += &wide(bias);
        error += &((value.abs().unwrap() + &error) * number(ROUNDING));
    }
    Expected { value, error }
}

/// tanh nowhere rises faster than 1. The kernel's is a quotient of 1 - p and 1 + p with p = e^-2x: p is off by some four
/// roundings and by what x is, and so is the difference, however small it is.
fn capped(x: &Expected, cap: f64) -> Expected {
    let power = exponential(&(&x.value * number(-2.0 / cap)));
    let one = number(1.0);
    let tanh = (&one - &power) / (&one + &power);
    // Beyond 300 both are float64's infinity.
    let is_far = x.value.lt(number(-300.0 * cap)).unwrap();
    let tanh = mlx_rs::ops::select(&is_far, number(-1.0), &tanh).unwrap();
    let error = &x.error + number(16.0 * cap * ROUNDING);
    Expected { value: tanh * number(cap), error }
}
