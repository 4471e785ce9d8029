//! The real SmolLM2 against mlx-lm's values in `reference/smollm2.json`.
//!
//! One test of models: it measures MLX's memory, which all threads of a process share. The other is of chat templates,
//! which need none of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lockstep;
mod templates;

use artifact_store::Store;
use serde::Deserialize;
use worker::model::{Kernels, KvBudget, KvDtype, Model, SequenceKv, StepInput, StepRow};

/// Of MLX's operations in float32: between sums in different orders.
const MLX_TOLERANCE: f64 = 1e-3;

/// Of our own kernels, which round activations to 16 bits in each group before they meet quantized weights.
const OWN_TOLERANCE: f64 = 1e-2;

/// Of MLX's operations in float16: eleven bits, in thirty layers.
const GPU_TOLERANCE: f64 = 0.5;

/// Tokens, all prompts together, that both kinds of kernels choose side by side: MLX's take a tenth of a second for each.
/// `cargo xtask bench accuracy` compares more.
const SIDE_BY_SIDE: usize = 8;

const BUDGET: KvBudget = KvBudget { bytes: 256 << 20, sequences: 4, dtype: KvDtype::Float32 };

#[derive(Deserialize)]
struct Reference {
    model: String,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    name: String,
    tokens: Vec<u32>,
    logits: Summary,
    greedy: Vec<u32>,
}

/// Logits after the prompt's last token.
#[derive(Deserialize)]
struct Summary {
    top: Vec<(usize, f64)>,
    spread: Vec<(usize, f64)>,
    max: f64,
    mean: f64,
    l2: f64,
}

#[test]
fn smollm2_agrees_with_mlx_lm() {
    let store = std::env::var_os("KR_TEST_STORE")
        .expect("KR_TEST_STORE names no store with the test model: run `cargo xtask test`, which makes one and sets it");
    let reference: Reference = serde_json::from_str(include_str!("reference/smollm2.json")).unwrap();
    let kernels = Kernels::of(mlx_ext::init().unwrap());
    let on_cpu = kernels == Kernels::Cpu;
    let tolerance = if on_cpu { OWN_TOLERANCE } else { GPU_TOLERANCE };
    let artifact = Store::open_read_only(store).unwrap().resolve(&reference.model).unwrap();

    let before = resident_bytes();
    let model = Model::load(&artifact, kernels, BUDGET).unwrap();
    assert!(model.weight_bytes() > 90_000_000);
    let touched = resident_bytes().saturating_sub(before);
    assert!(touched < model.weight_bytes() / 2, "loading touched {touched} bytes: it should read no weights");
    let active = mlx_rs::memory::active_memory().unwrap();
    // On a GPU the mapped weights count, too.
    assert!(!on_cpu || active < 1_000_000, "loading allocated {active} bytes: it should copy no weights");

    let mut kvs: Vec<SequenceKv> = Vec::new();
    let mut next: Vec<u32> = Vec::new();
    for prompt in &reference.prompts {
        let mut kv = model.new_kv();
        let logits =
            forward(&model, vec![StepRow { tokens: &prompt.tokens, kv: &mut kv, wants_logits: true }])
                .remove(0);
        agree(prompt, &logits, tolerance);
        next.push(argmax(&logits));
        kvs.push(kv);
    }

    // All three decode together.
    let mut found: Vec<Vec<u32>> = next.iter().map(|&token| vec![token]).collect();
    let steps = reference.prompts[0].greedy.len() - 1;
    for _ in 0..steps {
        let last: Vec<[u32; 1]> = found.iter().map(|tokens| [*tokens.last().unwrap()]).collect();
        let rows = last.iter().zip(&mut kvs).map(|(tokens, kv)| StepRow { tokens, kv, wants_logits: true });
        for (tokens, logits) in found.iter_mut().zip(forward(&model, rows.collect())) {
            tokens.push(argmax(&logits));
        }
    }
    if !on_cpu {
        // float16 takes another token where two are near, and its kernels depend on the batch.
        return;
    }
    for (prompt, found) in reference.prompts.iter().zip(&found) {
        assert_eq!(found, &prompt.greedy, "greedy tokens after prompt `{}`", prompt.name);
    }
    decodes_alike_alone_and_in_company(&model, &mut kvs, &found);

    let plain = Model::load(&artifact, Kernels::MlxFloat32, BUDGET).unwrap();
    for prompt in &reference.prompts {
        let mut kv = plain.new_kv();
        let rows = vec![StepRow { tokens: &prompt.tokens, kv: &mut kv, wants_logits: true }];
        agree(prompt, &forward(&plain, rows)[0], MLX_TOLERANCE);
    }
    drop(kvs);
    both_kernels_go_the_same_way(&reference, &[plain, model]);
}

/// Every logit of every step, where [`agree`] sees some of one; and the probability of a text.
fn both_kernels_go_the_same_way(reference: &Reference, models: &[Model]) {
    let prompts: Vec<Vec<u32>> =
        reference.prompts.iter().map(|prompt| prompt.tokens[prompt.tokens.len() - 9..].to_vec()).collect();
    let mut outcomes = lockstep::continue_greedily(models, &prompts, SIDE_BY_SIDE);
    for (outcome, of_text) in outcomes.iter_mut().zip(lockstep::read(models, &prompts)) {
        outcome.merge(of_text);
    }
    let [theirs, ours] = &outcomes[..] else { panic!("one outcome a model") };
    assert_eq!((ours.chosen, ours.predicted), (SIDE_BY_SIDE * prompts.len(), 8 * prompts.len()));
    assert!(ours.largest_difference < OWN_TOLERANCE, "{ours:?}");
    assert!(ours.other_tokens.is_empty(), "{ours:?}");
    // Of few tokens: their errors do not cancel yet as they do in a long text, where 0.05 % is allowed.
    let ratio = ours.perplexity() / theirs.perplexity();
    assert!((ratio - 1.0).abs() < 2e-3, "perplexity {ratio} times that of MLX's operations");
}

/// One more token for each sequence, with the others and then alone: not a bit may differ.
fn decodes_alike_alone_and_in_company(model: &Model, kvs: &mut [SequenceKv], tokens: &[Vec<u32>]) {
    let last: Vec<[u32; 1]> = tokens.iter().map(|tokens| [*tokens.last().unwrap()]).collect();
    let rows = last.iter().zip(&mut *kvs).map(|(tokens, kv)| StepRow { tokens, kv, wants_logits: true });
    let together = forward(model, rows.collect());
    for ((tokens, kv), together) in last.iter().zip(kvs).zip(together) {
        kv.truncate(kv.len() - 1);
        let alone = forward(model, vec![StepRow { tokens, kv, wants_logits: true }]).remove(0);
        assert!(alone.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

/// Memory of this process, mapped pages that were touched included; 0 where that is not known.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    // No page is smaller than 4 KiB, which is x86's.
    pages.split_whitespace().nth(1).map_or(0, |pages| 4096 * pages.parse::<u64>().unwrap())
}

fn forward(model: &Model, rows: Vec<StepRow<'_>>) -> Vec<Vec<f32>> {
    let logits = model.forward(&mut StepInput { rows }).unwrap().unwrap();
    (0..logits.rows()).map(|row| logits.row(row).to_vec()).collect()
}

fn agree(prompt: &Prompt, logits: &[f32], tolerance: f64) {
    let expected = &prompt.logits;
    let near = |what: &str, found: f64, expected: f64, allowed: f64| {
        assert!((found - expected).abs() < allowed, "{what} of `{}`: {found}, not {expected}", prompt.name);
    };
    for &(token, value) in expected.top.iter().chain(&expected.spread) {
        near(&format!("logit {token}"), f64::from(logits[token]), value, tolerance);
    }
    let all = || logits.iter().map(|&value| f64::from(value));
    near("maximum", all().fold(f64::MIN, f64::max), expected.max, tolerance);
    near("mean", all().sum::<f64>() / logits.len() as f64, expected.mean, tolerance);
    // As if every logit were off by the tolerance.
    near(
        "norm",
        all().map(|v| v * v).sum::<f64>().sqrt(),
        expected.l2,
        tolerance * (logits.len() as f64).sqrt(),
    );
}

fn argmax(logits: &[f32]) -> u32 {
    (0..).zip(logits).max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(token, _)| token).unwrap()
}
