//! Our products beside MLX's operation and beside a plain read of the weights. Started by `cargo xtask bench kernels`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use mlx_ext::cpu;
use mlx_rs::{
    Array, Dtype,
    ops::{quantize, quantized_matmul},
    random,
    transforms::eval,
};

/// Matrices of SmolLM2-135M and of a larger model: outputs, inputs, bits.
const MATRICES: [(i32, i32, i32); 5] =
    [(960, 576, 4), (3072, 576, 4), (576, 1536, 4), (49152, 576, 8), (6144, 1152, 4)];

const GROUP: i32 = 32;

/// MLX's operation takes each row as long as the first: above this many rows it is not worth waiting for.
const MLX_ROWS: i32 = 8;

fn main() {
    mlx_ext::init().unwrap();
    println!(
        "{:>7} {:>6} {:>4} {:>5} {:>10} {:>10} {:>8} {:>9}",
        "outputs", "inputs", "bits", "rows", "ms", "Gmul/s", "GB/s", "MLX ms"
    );
    for (outputs, inputs, bits) in MATRICES {
        let dense = random::normal::<f32>(&[outputs, inputs], None, None, None).unwrap();
        let (packed, scales, biases) = quantize(&dense, GROUP, bits).unwrap();
        let (scales, biases) =
            (scales.as_dtype(Dtype::Float16).unwrap(), biases.as_dtype(Dtype::Float16).unwrap());
        eval([&packed, &scales, &biases]).unwrap();
        let bytes = packed.nbytes() + scales.nbytes() + biases.nbytes();
        for rows in [1, 8, 32, 64, 512] {
            let x = random::normal::<f32>(&[rows, inputs], None, None, None).unwrap();
            eval([&x]).unwrap();
            let matrix = cpu::Matrix {
                weight: &packed,
                quantization: Some(cpu::Quantization {
                    scales: &scales,
                    biases: &biases,
                    group_size: GROUP,
                    bits,
                }),
                bias: None,
            };
            let ours = best(|| {
                let job = cpu::Linear {
                    x: &x,
                    norm: None,
                    matrices: &[matrix],
                    gated: false,
                    residual: None,
                    int8: false,
                };
                cpu::linear(&job).unwrap()
            });
            let theirs = (rows <= MLX_ROWS).then(|| {
                best(|| quantized_matmul(&x, &packed, &scales, &biases, true, GROUP, bits).unwrap())
            });
            let products = f64::from(rows) * f64::from(outputs) * f64::from(inputs);
            println!(
                "{outputs:>7} {inputs:>6} {bits:>4} {rows:>5} {:>10.3} {:>10.1} {:>8.1} {:>9}",
                ours.as_secs_f64() * 1e3,
                products / ours.as_secs_f64() / 1e9,
                bytes as f64 / ours.as_secs_f64() / 1e9,
                theirs.map_or("-".to_owned(), |theirs| format!("{:.1}", theirs.as_secs_f64() * 1e3)),
            );
        }
    }
    println!("a plain read of 256 MB with all threads: {:.1} GB/s", plain_read());
}

/// The shortest of several evaluations, for about a third of a second.
fn best(mut make: impl FnMut() -> Array) -> Duration {
    let begun = Instant::now();
    let mut best = Duration::MAX;
    while begun.elapsed() < Duration::from_millis(300) {
        let started = Instant::now();
        eval([&make()]).unwrap();
        best = best.min(started.elapsed());
    }
    best
}

/// Gigabytes a second.
fn plain_read() -> f64 {
    let data = vec![1_u64; 32 << 20];
    let threads = std::thread::available_parallelism().unwrap().get();
    let read = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(|| std::hint::black_box(part.iter().fold(0_u64, |sum, value| sum ^ value)));
            }
        });
        started.elapsed().as_secs_f64()
    };
    let best = (0..8).map(|_| read()).fold(f64::MAX, f64::min);
    (data.len() * 8) as f64 / best / 1e9
}
