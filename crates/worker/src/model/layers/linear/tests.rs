#![allow(clippy::unwrap_used)]

use mlx_rs::{Dtype, transforms::eval};

use super::{super::NormParams, *};
use crate::backend::Kernels;

const TOKENS: usize = 3;
const WIDTH: usize = 40;

/// Small whole numbers over 8: the same on every machine.
fn numbers(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * step) % 17) as f32 / 8.0 - 1.0).collect()
}

fn array(values: &[f32], shape: &[usize]) -> Array {
    let shape: Vec<i32> = shape.iter().map(|&dim| dim as i32).collect();
    Array::from_slice(values, &shape)
}

/// `residual + norm(x Wᵀ)`, with and without the normalization, which is where fusing has to stop.
#[test]
fn a_normalization_may_stand_before_the_residual() {
    let device = mlx_ext::init().unwrap();
    let (x, matrix) = (numbers(TOKENS * WIDTH, 5), numbers(WIDTH * WIDTH, 7));
    let (residual, scale) = (numbers(TOKENS * WIDTH, 3), numbers(WIDTH, 11));
    let product = |row: &[f32]| -> Vec<f64> {
        let dot = |weights: &[f32]| weights.iter().zip(row).map(|(w, x)| f64::from(w * x)).sum();
        matrix.chunks(WIDTH).map(dot).collect()
    };
    for (kernels, with_norm) in
        [Kernels::of(device), Kernels::MlxFloat32].map(|k| [(k, false), (k, true)]).concat()
    {
        let backend = Backend::new(kernels, Dtype::Float32);
        let after = with_norm.then(|| {
            Normalization::new(backend, NormParams::rms(1e-5), &array(&scale, &[WIDTH]), None).unwrap()
        });
        let storage = Storage::Dense(array(&matrix, &[WIDTH, WIDTH]));
        let matrices = vec![backend.matrix(storage, None).unwrap()];
        let linear = FusedLinear { norm: None, matrices, gate: None, site: None, backend };
        let output = OutputLinear { linear, after, factor: 1.0 };
        let y = output.forward(&array(&x, &[TOKENS, WIDTH]), &array(&residual, &[TOKENS, WIDTH])).unwrap();
        eval([&y]).unwrap();
        let rows = x.chunks(WIDTH).zip(residual.chunks(WIDTH)).zip(y.as_slice::<f32>().chunks(WIDTH));
        for ((x, residual), found) in rows {
            let product = product(x);
            let mean = product.iter().map(|v| v * v).sum::<f64>() / WIDTH as f64;
            for i in 0..WIDTH {
                let normed = product[i] / (mean + 1e-5).sqrt() * f64::from(scale[i]);
                let expected = f64::from(residual[i]) + if with_norm { normed } else { product[i] };
                assert!((f64::from(found[i]) - expected).abs() < 1e-4, "{kernels:?}, {with_norm}");
            }
        }
    }
}
