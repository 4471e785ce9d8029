//! Tokens a second of the whole model, one measurement for each line of standard input. Started by
//! `cargo xtask bench engine`, which measures others in between.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod stages;

use std::{
    io::{BufRead, stdin},
    time::Instant,
};

use artifact_store::Store;
use protocol::message::Sampling;
use stages::Decode;
use worker::{
    model::{Kernels, KvBudget, KvDtype, Logits, Model, SequenceKv, StepInput, StepRow},
    sample::{Row, SampleThreads, Sampler},
};

/// Most sequences of a measurement.
const SEQUENCES: usize = 64;

/// What chooses the next token of each sequence.
enum Choice {
    /// It is known before: the model alone is measured.
    Given,
    /// The sampler, from the logits.
    Sampled(Sampling),
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, model, choice @ ..] = arguments.as_slice() else {
        panic!("two arguments are wanted, a store and a model: run `cargo xtask bench engine`")
    };
    let choice = Choice::of(choice);
    let kernels = Kernels::of(mlx_ext::init().unwrap());
    let artifact = Store::open_read_only(store).unwrap().resolve(model).unwrap();
    let budget =
        KvBudget { bytes: 4 << 30, sequences: SEQUENCES, dtype: KvDtype::Float32, step_tokens: Some(64) };
    let load = || Model::load(&artifact, kernels, budget).unwrap();
    let model = load();
    println!(
        "{} MB of weights, {kernels:?} kernels for {}, {} threads",
        model.weight_bytes() / 1_000_000,
        mlx_ext::cpu::instructions(),
        mlx_ext::cpu::threads()
    );
    // "prefill TOKENS" or "decode BATCH CONTEXT STEPS", which is answered by a line with tokens a second; or
    // "stages BATCH CONTEXT STEPS", which is answered by a line with seconds of each.
    for line in stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<usize>().unwrap();
        if words[0] == "stages" {
            let [batch, context, steps] = [1, 2, 3].map(number);
            let sampling = choice.sampling();
            let seconds = Decode { batch, context, steps, sampling }.measure(load(), &artifact);
            println!("{}", seconds.iter().map(|it| format!("{it:.6}")).collect::<Vec<_>>().join(" "));
            continue;
        }
        let measure = || match words[0] {
            "prefill" => prefill(&model, number(1)),
            "decode" => decode(&model, &choice, number(1), number(2), number(3)),
            other => panic!("{other} cannot be measured"),
        };
        // Once for caches, pages and clock rates; then for the record.
        measure();
        println!("{:.2}", measure());
    }
}

/// One prompt of `tokens`, in one step.
fn prefill(model: &Model, tokens: usize) -> f64 {
    let prompt = prompt(model, tokens);
    let mut kv = model.new_kv();
    let started = Instant::now();
    forward(model, vec![StepRow::last_logits(&prompt, &mut kv)]);
    tokens as f64 / started.elapsed().as_secs_f64()
}

/// `steps` steps of `batch` sequences with `context` tokens each before the first.
fn decode(model: &Model, choice: &Choice, batch: usize, context: usize, steps: usize) -> f64 {
    let prompt = prompt(model, batch + context.max(steps));
    let mut kvs: Vec<SequenceKv> = (0..batch).map(|_| model.new_kv()).collect();
    for (offset, kv) in kvs.iter_mut().enumerate() {
        let tokens = &prompt[offset..offset + context];
        forward(model, vec![StepRow::no_logits(tokens, kv)]);
    }
    let mut samplers: Vec<Sampler> = (0..batch as u64).filter_map(|seed| choice.sampler(seed)).collect();
    let mut threads = SampleThreads::start(model.threads());
    let mut sampled = prompt[..batch].to_vec();
    let started = Instant::now();
    for step in 0..steps {
        let given = &prompt[step..][..batch];
        let last: &[u32] = if samplers.is_empty() { given } else { &sampled };
        let rows = kvs.iter_mut().zip(last.chunks(1)).map(|(kv, token)| StepRow::last_logits(token, kv));
        let logits = forward(model, rows.collect()).unwrap();
        let position = (context + step + 1) as u64;
        let rows = samplers.iter_mut().enumerate();
        let rows = rows.map(|(row, sampler)| Row {
            sampler,
            logits: logits.row(row),
            draft: &[],
            position,
            mask: None,
        });
        sampled = threads.sample(rows.collect()).concat();
    }
    (steps * batch) as f64 / started.elapsed().as_secs_f64()
}

/// Tokens from all over the vocabulary.
fn prompt(model: &Model, tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| (i * 7919 + 13) % model.vocab_size()).collect()
}

fn forward(model: &Model, rows: Vec<StepRow<'_>>) -> Option<Logits> {
    model.forward(&mut StepInput { rows }).unwrap()
}

impl Choice {
    /// Nothing, `greedy`, or a temperature and top-p.
    fn of(words: &[String]) -> Self {
        match words {
            [] => Self::Given,
            [word] if word == "greedy" => Self::Sampled(Sampling::default()),
            [temperature, top_p] => {
                let number = |word: &str| word.parse().unwrap();
                let (temperature, top_p) = (number(temperature), number(top_p));
                Self::Sampled(Sampling { temperature, top_p, ..Sampling::default() })
            }
            others => panic!("expected `greedy`, or a temperature and a top-p, not {others:?}"),
        }
    }

    /// How an engine chooses that has to choose.
    fn sampling(&self) -> Sampling {
        match self {
            Self::Given => Sampling::default(),
            Self::Sampled(sampling) => sampling.clone(),
        }
    }

    fn sampler(&self, seed: u64) -> Option<Sampler> {
        match self {
            Self::Given => None,
            Self::Sampled(sampling) => Some(Sampler::new(Sampling { seed, ..sampling.clone() }, &[])),
        }
    }
}
