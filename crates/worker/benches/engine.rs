//! Tokens a second of the whole model: prefill, and decode at several batch sizes. Started by `cargo xtask bench engine`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use artifact_store::Store;
use worker::model::{Kernels, KvBudget, Model, SequenceKv, StepInput, StepRow};

/// Tokens of the prompt in the prefill figure.
const PROMPT: usize = 512;

/// Steps of each decode figure, after some that warm up.
const STEPS: usize = 24;

fn main() {
    let variable = |name: &str| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask bench engine`"))
    };
    let kernels = Kernels::of(mlx_ext::init().unwrap());
    let artifact = Store::open_read_only(variable("KR_BENCH_STORE"))
        .unwrap()
        .resolve(&variable("KR_BENCH_MODEL"))
        .unwrap();
    let model = Model::load(&artifact, kernels, KvBudget { bytes: 4 << 30, sequences: 64 }).unwrap();
    println!("{} ({} MB of weights), {kernels:?} kernels", artifact.name, model.weight_bytes() / 1_000_000);
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| (i * 7919 + 13) % model.vocab_size()).collect();

    let rate = best_of(3, || {
        let mut kv = model.new_kv();
        let started = Instant::now();
        forward(&model, vec![StepRow { tokens: &prompt, kv: &mut kv, wants_logits: true }]);
        PROMPT as f64 / started.elapsed().as_secs_f64()
    });
    println!("prefill {PROMPT:>4}      {rate:>8.1} tokens/s");

    for batch in [1, 8, 32, 50] {
        let mut kvs: Vec<SequenceKv> = (0..batch).map(|_| model.new_kv()).collect();
        for (offset, kv) in kvs.iter_mut().enumerate() {
            let tokens = &prompt[offset..offset + 32];
            forward(&model, vec![StepRow { tokens, kv, wants_logits: false }]);
        }
        let mut step = |n: usize| {
            let token = [prompt[n % PROMPT]];
            let rows = kvs.iter_mut().map(|kv| StepRow { tokens: &token, kv, wants_logits: true });
            forward(&model, rows.collect());
        };
        (0..4).for_each(&mut step);
        let rate = best_of(3, || {
            let started = Instant::now();
            (0..STEPS).for_each(&mut step);
            (STEPS * batch) as f64 / started.elapsed().as_secs_f64()
        });
        println!(
            "decode, batch {batch:>2}  {rate:>8.1} tokens/s, {:.2} ms a step",
            1000.0 * batch as f64 / rate
        );
    }
}

fn forward(model: &Model, rows: Vec<StepRow<'_>>) {
    let _ = model.forward(&mut StepInput { rows }).unwrap();
}

/// The best of some measurements: what disturbs only ever slows down.
fn best_of(times: usize, mut measure: impl FnMut() -> f64) -> f64 {
    (0..times).map(|_| measure()).fold(0.0, f64::max)
}
