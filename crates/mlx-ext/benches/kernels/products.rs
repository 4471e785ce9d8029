//! Products with weight matrices.

use mlx_ext::{
    MicroScaling,
    cpu::{self, Linear},
};
use mlx_rs::{
    Array, Dtype,
    nn::silu,
    ops::{add, matmul, multiply, quantized_matmul},
    random,
    transforms::eval,
};

use super::{
    bandwidth,
    peak::Peak,
    timing,
    weights::{Format, Place, Storage, Weight, Weights},
    work,
};

/// Rows of activations: decode of one sequence, of some, and prefill.
const ROWS: [i32; 4] = [1, 8, 64, 512];
/// Multiply-adds of one measurement, about.
const WORK: f64 = 4e9;

/// What is computed with one copy of the weights.
struct Job {
    name: String,
    formats: Vec<Format>,
}

/// Prints a table of the bandwidth at one row, and one of the rates at several.
pub(crate) fn run(integer: Option<&Peak>, float: Option<&Peak>) {
    let jobs = jobs();
    println!(
        "\nOne row of activations: GB/s of the weights, beside a plain read of the same bytes by the same threads\n"
    );
    println!("| weights | where they are | kernel | plain read | share | MLX's operation |");
    println!("| --- | --- | ---: | ---: | ---: | ---: |");
    for job in &jobs {
        for (place, title) in [(Place::MappedFile, "mapped file"), (Place::Anonymous, "anonymous")] {
            job.bandwidth(place, title);
        }
    }
    println!("\nMore rows: billion multiply-adds/s, and their share of the instruction's peak\n");
    println!("| weights | rows | kernel | share of the peak | MLX's operation | ratio |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for job in &jobs {
        let weights = Weights::make(&job.formats, Place::MappedFile);
        let peak = if matches!(job.formats[0].storage, Storage::Dense) { float } else { integer };
        ROWS.into_iter().for_each(|rows| job.rate(&weights, rows, peak));
    }
}

/// Every packing with one size, and others that models have.
fn jobs() -> Vec<Job> {
    let job = |shape: &str, storage: Storage, sizes: &[(i32, i32)]| {
        let format = |&(outputs, inputs)| Format { outputs, inputs, storage };
        Job { name: format!("{shape}, {storage}"), formats: sizes.iter().map(format).collect() }
    };
    let affine = |bits, group| Storage::Affine { bits, group };
    let packings = [2, 3, 4, 5, 6, 8].map(|bits| affine(bits, 64));
    let packings = packings.into_iter().chain([Storage::Mxfp4, Storage::Dense]);
    let square = packings.map(|storage| job("4096 x 4096", storage, &[(4096, 4096)]));
    let others = [
        job("6144 x 1152", affine(4, 32), &[(6144, 1152)]),
        job("6144 x 1152", Storage::Dense, &[(6144, 1152)]),
        job("49152 x 576", affine(8, 32), &[(49152, 576)]),
        job("feed-forward 576-1536", affine(4, 32), &[(1536, 576), (1536, 576), (576, 1536)]),
    ];
    square.chain(others).collect()
}

impl Job {
    fn bandwidth(&self, place: Place, title: &str) {
        let weights = Weights::make(&self.formats, place);
        let x = self.activations(1);
        let words = weights.words();
        let [ours, read] =
            timing::in_turns([&mut || self.compute(&weights.copies, &x), &mut || bandwidth::read(&words)]);
        let theirs = timing::patiently(|| eval([&mlx(&weights.copies[0], &x)]).unwrap());
        let rate = |seconds: f64| weights.all_bytes() / seconds / 1e9;
        println!(
            "| {} | {title} | {:.1} | {:.1} | {:.0} % | {:.2} |",
            self.name,
            rate(ours),
            rate(read),
            100.0 * read / ours,
            weights.bytes as f64 / theirs / 1e9
        );
    }

    fn rate(&self, weights: &Weights, rows: i32, peak: Option<&Peak>) {
        let x = self.activations(rows);
        let products = f64::from(rows) * self.formats.iter().map(|format| format.products()).sum::<f64>();
        let count = ((WORK / products) as usize).clamp(1, weights.copies.len());
        let [ours] = timing::in_turns([&mut || self.compute(&weights.copies[..count], &x)]);
        let ours = count as f64 * products / ours;
        let theirs = products / timing::patiently(|| eval([&mlx(&weights.copies[0], &x)]).unwrap());
        println!(
            "| {} | {rows} | {:.1} | {} | {:.2} | {:.0} |",
            self.name,
            ours / 1e9,
            work::share(ours, peak),
            theirs / 1e9,
            ours / theirs
        );
    }

    fn activations(&self, rows: i32) -> Array {
        let x = random::normal::<f32>(&[rows, self.formats[0].inputs], None, None, None).unwrap();
        eval([&x]).unwrap();
        x
    }

    /// One matrix: each copy by itself. Three: layers behind each other, as in a model, which are one node of MLX's graph.
    fn compute(&self, copies: &[Vec<Weight>], x: &Array) {
        if self.formats.len() == 1 {
            let results = copies.iter().map(|copy| linear(x, &copy[..1], false, None));
            return eval(&results.collect::<Vec<_>>()).unwrap();
        }
        let layer = |x: Array, copy: &Vec<Weight>| {
            let inner = linear(&x, &copy[..2], true, None);
            linear(&inner, &copy[2..], false, Some(&x))
        };
        eval([&copies.iter().fold(x.clone(), layer)]).unwrap();
    }
}

fn linear(x: &Array, weights: &[Weight], gated: bool, residual: Option<&Array>) -> Array {
    let matrices: Vec<cpu::Matrix<'_>> = weights.iter().map(Weight::matrix).collect();
    cpu::linear(&Linear {
        x,
        norm: None,
        matrices: &matrices,
        gate: gated.then_some(cpu::Gate::Silu),
        residual,
        int8: false,
    })
    .unwrap()
}

/// The same with MLX's operations, in float32 where it can choose. Lazy.
fn mlx(copy: &[Weight], x: &Array) -> Array {
    let product = |x: &Array, weight: &Weight| {
        let matrix = weight.matrix();
        match matrix.quantization {
            Some(cpu::Quantization::Affine { scales, biases, group_size, bits }) => {
                quantized_matmul(x, matrix.weight, scales, biases, true, group_size, bits).unwrap()
            }
            Some(cpu::Quantization::Mxfp4 { scales }) => {
                MicroScaling::Mxfp4.multiply(x, matrix.weight, scales).unwrap()
            }
            None => matmul(x.as_dtype(Dtype::Bfloat16).unwrap(), matrix.weight.t()).unwrap(),
        }
    };
    match copy {
        [gate, up, down] => {
            let inner = multiply(silu(product(x, gate)).unwrap(), product(x, up)).unwrap();
            add(product(&inner, down), x).unwrap()
        }
        _ => product(x, &copy[0]),
    }
}
