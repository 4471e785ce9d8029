//! One row of logits, from end to end: `cargo bench -p worker --bench sample`. Whole steps are measured by
//! `cargo xtask bench engine --sampled`.

#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use protocol::message::Sampling;
use worker::sample::{Sampler, Scratch};

/// SmolLM2's and Qwen2.5's.
const VOCABULARIES: [u32; 2] = [49_152, 151_936];

/// Rows that take turns, so that none is in the cache of its own, as in a step.
const ROWS: usize = 50;

criterion_group!(benches, rows);
criterion_main!(benches);

fn rows(criterion: &mut Criterion) {
    let warm = Sampling { temperature: 0.8, ..Sampling::default() };
    let cases = [
        ("greedy", Sampling::default()),
        ("temperature", warm.clone()),
        ("top-p", Sampling { top_p: 0.95, ..warm.clone() }),
        ("top-p, flat", Sampling { top_p: 0.95, temperature: 1.6, ..warm.clone() }),
        ("min-p", Sampling { min_p: 0.05, ..warm.clone() }),
        ("top-k", Sampling { top_k: 40, ..warm.clone() }),
        ("top-p, penalties", Sampling { top_p: 0.95, repetition_penalty: 1.1, ..warm }),
    ];
    for vocabulary in VOCABULARIES {
        let rows: Vec<Vec<f32>> = (0..ROWS).map(|row| logits(vocabulary, row as u32)).collect();
        let mut group = criterion.benchmark_group("sample");
        for (name, sampling) in &cases {
            let mut samplers: Vec<Sampler> = (0..ROWS).map(|_| Sampler::new(sampling.clone(), &[])).collect();
            let (mut scratch, mut call) = (Scratch::default(), 0);
            group.bench_function(BenchmarkId::new(*name, vocabulary), |bencher| {
                bencher.iter(|| {
                    call += 1;
                    let row = call % ROWS;
                    samplers[row].sample(&rows[row], call as u64, &mut scratch)
                });
            });
        }
    }
}

/// As of a text: probabilities fall with the power 1.2 of the rank, which is 1.5 at temperature 0.8. Of these the 230 most
/// likely tokens have 95 %.
fn logits(vocabulary: u32, row: u32) -> Vec<f32> {
    // Every rank once, since the factor is a prime beyond the vocabulary.
    let rank = |token: u32| (u64::from(token) * 7_368_787 + u64::from(row) * 104_729) % u64::from(vocabulary);
    (0..vocabulary).map(|token| -1.2 * ((1 + rank(token)) as f32).ln()).collect()
}
