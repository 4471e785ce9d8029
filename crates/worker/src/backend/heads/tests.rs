//! Products of heads on both backends, against plain loops over float64.

#![allow(clippy::unwrap_used)]

use mlx_rs::ops::{dequantize, quantize};

use super::*;
use crate::backend::{
    Storage,
    tests::{backends, numbers},
};

const TOKENS: i32 = 37;
const HEADS: i32 = 3;
/// Of a head: values before the inputs, inputs, values behind them.
const PARTS: [i32; 3] = [4, 64, 6];
const ROWS: i32 = 40;

fn width() -> i32 {
    PARTS.iter().sum()
}

/// Of the rows `used` of each head, behind the values `copied`.
fn expected(x: &[f32], matrix: &[f32], copied: Range<i32>, used: Range<i32>) -> Vec<f64> {
    let mut y = Vec::new();
    for (index, head) in x.chunks(width() as usize).enumerate() {
        let value = |at: i32| f64::from(head[at as usize]);
        y.extend(copied.clone().map(value));
        for row in used.clone() {
            let from = (index as i32 % HEADS * ROWS + row) * PARTS[1];
            let weights = &matrix[from as usize..(from + PARTS[1]) as usize];
            let products = weights.iter().zip(PARTS[0]..).map(|(w, at)| f64::from(*w) * value(at));
            y.push(products.sum());
        }
    }
    y
}

fn near(found: &Array, expected: &[f64], limit: f64) {
    found.eval().unwrap();
    let found = found.as_slice::<f32>();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < limit, "{found}, {expected}");
    }
}

#[test]
fn every_head_meets_its_own_matrix() {
    let values = numbers(TOKENS * HEADS * width(), 1);
    let x = Array::from_slice(&values, &[TOKENS, HEADS * width()]);
    let dense = Array::from_slice(&numbers(HEADS * ROWS * PARTS[1], 2), &[HEADS * ROWS, PARTS[1]]);
    let (packed, scales, biases) = quantize(&dense, 32, 4).unwrap();
    let affine = Storage::Affine {
        packed: packed.clone(),
        scales: scales.clone(),
        biases: biases.clone(),
        group_size: 32,
        bits: 4,
    };
    let expanded = dequantize(&packed, &scales, &biases, 32, 4).unwrap();
    let inputs = PARTS[0]..PARTS[0] + PARTS[1];
    for (storage, weights) in [(Storage::Dense(dense.clone()), dense), (affine, expanded)] {
        weights.eval().unwrap();
        let weights = weights.as_slice::<f32>();
        for backend in backends() {
            let matrix = backend.matrix(storage.clone(), None).unwrap();
            for (copied, rows) in [(0..0, 0..ROWS), (68..74, 5..ROWS - 3)] {
                let expected = expected(&values, weights, copied.clone(), rows.clone());
                let matrix = &matrix;
                let job = HeadProducts { x: &x, heads: HEADS, copied, inputs: inputs.clone(), matrix, rows };
                near(&backend.head_products(&job).unwrap(), &expected, 2e-3);
            }
        }
    }
}

#[test]
fn transposed_matrices_have_the_same_values() {
    let dense = Array::from_slice(&numbers(HEADS * ROWS * PARTS[1], 2), &[HEADS * ROWS, PARTS[1]]);
    let (packed, scales, biases) = quantize(&dense, 32, 4).unwrap();
    let expanded = dequantize(&packed, &scales, &biases, 32, 4).unwrap();
    let affine = Storage::Affine { packed, scales, biases, group_size: 32, bits: 4 };
    for (storage, values) in [(Storage::Dense(dense.clone()), dense), (affine, expanded)] {
        values.eval().unwrap();
        let values = values.as_slice::<f32>();
        for backend in backends() {
            let Storage::Dense(turned) = backend.transposed_heads(&storage, HEADS, 3..ROWS).unwrap() else {
                panic!("it is not dense");
            };
            assert_eq!(turned.shape(), [HEADS * PARTS[1], ROWS - 3]);
            for (index, value) in turned.as_slice::<f32>().iter().enumerate() {
                let (head, rest) =
                    (index as i32 / (PARTS[1] * (ROWS - 3)), index as i32 % (PARTS[1] * (ROWS - 3)));
                let (input, row) = (rest / (ROWS - 3), rest % (ROWS - 3) + 3);
                assert_eq!(*value, values[((head * ROWS + row) * PARTS[1] + input) as usize]);
            }
        }
    }
}
