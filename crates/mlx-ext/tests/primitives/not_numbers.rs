//! A NaN that comes in comes out: no kernel turns it into a number that looks healthy.

use mlx_ext::cpu::{
    self, ExpertSet, Experts, Gate, Linear, Matrix, NormKind, NormedPart, Routing, Rowwise, Scores,
};
use mlx_rs::{Array, ops};

use crate::support::{
    Random,
    products::{Storage, Weights, computed, evaluated, plain},
};

const INPUTS: i32 = 64;

/// Rows of which one has a NaN, at a place.
fn rows_with(nan_at: usize, random: &mut Random) -> Array {
    let mut values: Vec<f32> = (0..3 * INPUTS).map(|_| random.normal()).collect();
    values[INPUTS as usize + nan_at] = f32::NAN;
    Array::from_slice(&values, &[3, INPUTS])
}

/// Of three rows all of the second are NaN, and nothing of the others is.
#[track_caller]
fn check(y: &Array, what: &str) {
    y.eval().unwrap();
    let width = y.dim(1) as usize;
    for (row, values) in y.as_slice::<f32>().chunks(width).enumerate() {
        assert!(values.iter().all(|value| value.is_nan() == (row == 1)), "{what}: row {row} is {values:?}");
    }
}

#[test]
fn products_of_every_storage_keep_them() {
    let random = &mut Random::new(40);
    for storage in Storage::all() {
        let inputs = storage.group().max(INPUTS);
        let weights = Weights::new(random, storage, 20, inputs);
        for nan_at in [0, 37, 63] {
            let x = ops::tile(rows_with(nan_at, random), &[1, inputs / INPUTS]).unwrap();
            x.eval().unwrap();
            let matrices = [weights.matrix(), weights.matrix()];
            check(&computed(&plain(&x, &matrices)), &format!("{storage:?}"));
            for gate in [Gate::Silu, Gate::GeluTanh] {
                let job = Linear { gate: Some(gate), ..plain(&x, &matrices) };
                check(&computed(&job), &format!("{storage:?}, {gate:?}"));
            }
            let one = ops::indexing::take_axis(&x, Array::from_slice(&[1_u32], &[1]), 0).unwrap();
            let alone = computed(&plain(&one, &matrices));
            assert!(alone.as_slice::<f32>().iter().all(|value| value.is_nan()), "{storage:?}, one row");
        }
    }
}

#[test]
fn caps_and_norms_keep_them() {
    let random = &mut Random::new(41);
    let weight = random.normals(&[INPUTS]);
    let x = rows_with(9, random);
    for kind in [NormKind::Rms, NormKind::Layer] {
        let part = NormedPart { kind, weight: &weight, bias: None, eps: 1e-5, count: 1 };
        let job =
            Rowwise { x: &x, parts: &[part], factor: 1.0, soft_cap: Some(30.0), gelu: false, residual: None };
        check(&cpu::rowwise(&job).unwrap(), &format!("{kind:?}"));
    }
    // Without a norm it stays alone.
    let capped = cpu::rowwise(&Rowwise {
        x: &x,
        parts: &[],
        factor: 1.0,
        soft_cap: Some(30.0),
        gelu: false,
        residual: None,
    })
    .unwrap();
    capped.eval().unwrap();
    let nans = capped.as_slice::<f32>().iter().enumerate().filter(|(_, value)| value.is_nan());
    assert_eq!(nans.map(|(i, _)| i).collect::<Vec<_>>(), [INPUTS as usize + 9]);
}

/// Wherever the NaN is among the scores, or infinity, which leaves no weights either.
#[test]
fn experts_keep_those_of_their_scores() {
    let random = &mut Random::new(42);
    let count = 5;
    let storage = Storage::Affine { bits: 4, group: 32, scales: mlx_rs::Dtype::Float16 };
    let parts = [(); 3]
        .map(|()| (0..count).map(|_| Weights::new(random, storage, INPUTS, INPUTS)).collect::<Vec<_>>());
    let matrices = parts.each_ref().map(|part| part.iter().map(evaluated).collect::<Vec<Matrix<'_>>>());
    let set = ExpertSet::new(matrices.each_ref().map(Vec::as_slice), INPUTS, INPUTS).unwrap();
    let x = random.normals(&[3, INPUTS]);
    for bad in [vec![0], vec![2], vec![4], vec![0, 1, 2, 3, 4]] {
        for value in [f32::NAN, f32::INFINITY] {
            let mut scores: Vec<f32> = (0..3 * count).map(|_| random.normal()).collect();
            bad.iter().for_each(|&expert| scores[count as usize + expert] = value);
            let router = Array::from_slice(&scores, &[3, count]);
            for normalized in [false, true] {
                let routing = Routing::softmax(2, normalized);
                let job = Experts {
                    x: &x,
                    router: &router,
                    routing,
                    set: &set,
                    gate: Gate::Silu,
                    residual: None,
                    int8: false,
                };
                check(&cpu::experts(&job).unwrap(), &format!("{value} at {bad:?}"));
                if value.is_nan() {
                    // Sigmoids of infinity are numbers.
                    let routing = Routing { scores: Scores::Sigmoid, ..routing };
                    check(
                        &cpu::experts(&Experts { routing, ..job }).unwrap(),
                        &format!("sigmoid at {bad:?}"),
                    );
                }
            }
        }
    }
}
