//! Each CPU primitive by itself, at the sizes of a small model: `cargo bench -p mlx-ext --bench primitives`.
//!
//! For finding out what a change did to one of them: criterion keeps the last run and says whether a difference is more
//! than scatter. Comparisons with MLX's operations and with the machine's peaks are in `kernels.rs`.

#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_ext::cpu::{self, KvDtype, KvPool, KvShape, Linear, Matrix, Quantization, StepRow};
use mlx_rs::{Array, Dtype, ops::quantize, random, transforms::eval};

/// SmolLM2-135M's: width, that of the feed-forward network, vocabulary, heads.
const HIDDEN: i32 = 576;
const INNER: i32 = 1536;
const VOCABULARY: i32 = 49_152;
const HEADS: i32 = 9;
const KV: KvShape = KvShape { layers: 1, kv_heads: 3, head_dim: 64, dtype: KvDtype::Float32 };

/// Decode alone and in batches, and a prompt.
const ROWS: [i32; 4] = [1, 8, 32, 512];

/// A matrix as it is stored; `bits` 0: float16.
struct Weights {
    weight: Array,
    packing: Option<(Array, Array, i32)>,
}

impl Weights {
    fn new(outputs: i32, inputs: i32, bits: i32) -> Self {
        let dense = normal(&[outputs, inputs]);
        if bits == 0 {
            let weight = dense.as_dtype(Dtype::Float16).unwrap();
            weight.eval().unwrap();
            return Self { weight, packing: None };
        }
        let (weight, scales, biases) = quantize(&dense, 32, bits).unwrap();
        let half = |array: Array| array.as_dtype(Dtype::Float16).unwrap();
        let (scales, biases) = (half(scales), half(biases));
        eval([&weight, &scales, &biases]).unwrap();
        Self { weight, packing: Some((scales, biases, bits)) }
    }

    fn matrix(&self) -> Matrix<'_> {
        let quantization = self.packing.as_ref().map(|(scales, biases, bits)| Quantization::Affine {
            scales,
            biases,
            group_size: 32,
            bits: *bits,
        });
        Matrix { weight: &self.weight, quantization, bias: None }
    }
}

fn normal(shape: &[i32]) -> Array {
    let array = random::normal::<f32>(shape, None, None, None).unwrap();
    array.eval().unwrap();
    array
}

fn plain<'a>(x: &'a Array, matrices: &'a [Matrix<'a>]) -> Linear<'a> {
    Linear { x, norm: None, matrices, gate: None, residual: None, int8: false }
}

/// Times evaluating what `make` makes.
fn time(criterion: &mut Criterion, group: &str, id: BenchmarkId, work: Throughput, make: impl Fn() -> Array) {
    let mut group = criterion.benchmark_group(group);
    group.throughput(work).bench_function(id, |bencher| bencher.iter(|| make().eval().unwrap()));
    group.finish();
}

/// Multiply-adds.
fn products(rows: i32, outputs: i32, inputs: i32) -> Throughput {
    Throughput::Elements(u64::from(rows.unsigned_abs()) * (i64::from(outputs) * i64::from(inputs)) as u64)
}

fn linear(criterion: &mut Criterion) {
    for (name, bits) in [("4 bits", 4), ("8 bits", 8), ("float16", 0)] {
        let weights = Weights::new(INNER, HIDDEN, bits);
        for rows in ROWS {
            let x = normal(&[rows, HIDDEN]);
            let work = products(rows, INNER, HIDDEN);
            time(criterion, "product", BenchmarkId::new(name, rows), work, || {
                cpu::linear(&plain(&x, &[weights.matrix()])).unwrap()
            });
        }
    }
}

/// As a transformer block asks for it: normalization and SwiGLU around the products.
fn gated(criterion: &mut Criterion) {
    let weights = [0, 1].map(|_| Weights::new(INNER, HIDDEN, 4));
    let matrices = weights.each_ref().map(Weights::matrix);
    let norm = normal(&[HIDDEN]);
    for rows in ROWS {
        let x = normal(&[rows, HIDDEN]);
        let job = Linear { norm: Some((&norm, 1e-5)), gate: Some(cpu::Gate::Silu), ..plain(&x, &matrices) };
        let work = products(rows, 2 * INNER, HIDDEN);
        time(criterion, "norm, gate and up", BenchmarkId::new("4 bits", rows), work, || {
            cpu::linear(&job).unwrap()
        });
    }
}

/// Products with a matrix of one output: next to nothing but the normalization and the rounding of rows.
fn normalization(criterion: &mut Criterion) {
    let weights = Weights::new(1, HIDDEN, 4);
    let norm = normal(&[HIDDEN]);
    for rows in ROWS {
        let x = normal(&[rows, HIDDEN]);
        let matrices = [weights.matrix()];
        let job = Linear { norm: Some((&norm, 1e-5)), ..plain(&x, &matrices) };
        let work = Throughput::Elements((rows * HIDDEN) as u64);
        time(criterion, "norm and rounding", BenchmarkId::from_parameter(rows), work, || {
            cpu::linear(&job).unwrap()
        });
    }
}

fn embedding(criterion: &mut Criterion) {
    let weights = Weights::new(VOCABULARY, HIDDEN, 8);
    for rows in ROWS {
        let tokens: Vec<u32> =
            (0..rows.unsigned_abs()).map(|i| i * 7919 % VOCABULARY.unsigned_abs()).collect();
        let tokens = Array::from_slice(&tokens, &[rows]);
        let work = Throughput::Elements((rows * HIDDEN) as u64);
        time(criterion, "embedding", BenchmarkId::new("8 bits", rows), work, || {
            cpu::embedding(&weights.matrix(), &tokens, HIDDEN).unwrap()
        });
    }
}

fn attention(criterion: &mut Criterion) {
    const CONTEXT: i32 = 1024;
    const SEQUENCES: i32 = 32;
    let blocks_each = CONTEXT / KvPool::BLOCK_TOKENS as i32;
    let (cos, sin) = (normal(&[CONTEXT, KV.head_dim / 2]), normal(&[CONTEXT, KV.head_dim / 2]));
    for (kind, dtype) in [("float32", KvDtype::Float32), ("float16", KvDtype::Float16)] {
        let pool = KvPool::new(KvShape { dtype, ..KV }, SEQUENCES * blocks_each).unwrap();
        let blocks: Vec<i32> = (0..SEQUENCES * blocks_each).collect();
        let blocks_of = |sequence: i32| &blocks[(sequence * blocks_each) as usize..][..blocks_each as usize];
        let step = |sequences: i32, new_tokens: i32, position: i32| {
            let row = |sequence| StepRow { new_tokens, position, blocks: blocks_of(sequence) };
            let step = pool.step(&(0..sequences).map(row).collect::<Vec<_>>()).unwrap();
            let width = (HEADS + 2 * KV.kv_heads) * KV.head_dim;
            (step, normal(&[sequences * new_tokens, width]))
        };
        let attend = |(step, qkv): &(cpu::Step, Array)| {
            let spec = cpu::Attention {
                qkv,
                appends: true,
                cos: &cos,
                sin: &sin,
                layer: 0,
                heads: HEADS,
                scale: 0.125,
                window: None,
                chunked: false,
                traditional: false,
                query_scale: None,
                sinks: None,
                soft_cap: None,
            };
            step.attend(&spec).unwrap()
        };
        // All blocks get memory, and keys.
        attend(&step(SEQUENCES, CONTEXT, 0)).eval().unwrap();
        for sequences in [1, 8, SEQUENCES] {
            let decode = step(sequences, 1, CONTEXT - 1);
            let tokens = Throughput::Elements(sequences as u64);
            let id = BenchmarkId::new(format!("decode, {CONTEXT} tokens, {kind}"), sequences);
            time(criterion, "attention", id, tokens, || attend(&decode));
        }
        let prefill = step(1, 512, 0);
        let id = BenchmarkId::new(format!("prefill, {kind}"), 512);
        time(criterion, "attention", id, Throughput::Elements(512), || attend(&prefill));
    }
}

fn set_up(criterion: &mut Criterion) {
    mlx_ext::init().unwrap();
    if cpu::threads() == 0 {
        return; // not built for this system
    }
    for bench in [linear, gated, normalization, embedding, attention] {
        bench(criterion);
    }
}

criterion_group!(primitives, set_up);
criterion_main!(primitives);
