//! The real SmolLM2 against mlx-lm's values in `reference/smollm2.json`, on each backend.
//!
//! The tests of models wait for each other: one measures MLX's memory, which all threads of a process share; one is of
//! all-MiniLM-L6-v2, which embeds text. The others are of chat templates and tokenizers, which need none of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lockstep;
mod minilm;
mod real_tokenizers;
mod templates;

use std::sync::{Mutex, MutexGuard, PoisonError};

use artifact_store::{Artifact, Store};
use serde::Deserialize;
use worker::model::{Kernels, KvBudget, KvDtype, Model, SequenceKv, StepInput, StepRow};

/// Of MLX's operations in float32: between sums in different orders.
const MLX_TOLERANCE: f64 = 1e-3;

/// Of MLX's operations in float16 on a GPU: eleven bits, in thirty layers.
const FLOAT16_TOLERANCE: f64 = 0.5;

/// Of the same on a CPU, where MLX also adds up a product with packed weights in float16: mlx-lm's logits after two tokens
/// are off by 1.6 there, and these are equal to them.
const EMULATED_FLOAT16_TOLERANCE: f64 = 2.5;

const BUDGET: KvBudget =
    KvBudget { bytes: 256 << 20, sequences: 4, dtype: KvDtype::Float32, step_tokens: Some(64) };

/// Held by the test that has a model.
static TURN: Mutex<()> = Mutex::new(());

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

/// The reference, and the model in the store; one test at a time has it.
struct Fixture {
    reference: Reference,
    artifact: Artifact,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    fn open() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let store = std::env::var_os("KR_TEST_STORE").expect(
            "KR_TEST_STORE names no store with the test model: run `cargo xtask test`, which makes one and sets it",
        );
        let reference: Reference = serde_json::from_str(include_str!("reference/smollm2.json")).unwrap();
        mlx_ext::init().unwrap();
        let artifact = Store::open_read_only(store).unwrap().resolve(&reference.model).unwrap();
        Self { reference, artifact, _turn: turn }
    }

    fn load(&self, kernels: Kernels) -> Model {
        Model::load(&self.artifact, kernels, BUDGET).unwrap()
    }

    /// Computes every prompt alone. Returns the sequences and what they are followed by.
    fn prefill(&self, model: &Model, tolerance: f64) -> (Vec<SequenceKv>, Vec<u32>) {
        let prefill = |prompt: &Prompt| {
            let mut kv = model.new_kv();
            let rows = vec![StepRow::last_logits(&prompt.tokens, &mut kv)];
            let logits = forward(model, rows).remove(0);
            agree(prompt, &logits, tolerance);
            (kv, argmax(&logits))
        };
        self.reference.prompts.iter().map(prefill).unzip()
    }

    /// Continues all prompts together, greedily, by as many tokens as the reference.
    fn decode(&self, model: &Model, kvs: &mut [SequenceKv], next: &[u32]) -> Vec<Vec<u32>> {
        let mut found: Vec<Vec<u32>> = next.iter().map(|&token| vec![token]).collect();
        for _ in 1..self.reference.prompts[0].greedy.len() {
            let last: Vec<[u32; 1]> = found.iter().map(|tokens| [*tokens.last().unwrap()]).collect();
            let rows = last.iter().zip(&mut *kvs).map(|(tokens, kv)| StepRow::last_logits(tokens, kv));
            for (tokens, logits) in found.iter_mut().zip(forward(model, rows.collect())) {
                tokens.push(argmax(&logits));
            }
        }
        found
    }
}

#[cfg(target_os = "linux")]
mod cpu {
    use super::*;

    /// Of the CPU's kernels, which round activations to 16 bits in each group before they meet quantized weights.
    const CPU_TOLERANCE: f64 = 1e-2;

    /// Tokens, all prompts together, that both kinds of kernels choose side by side: MLX's take a tenth of a second for each.
    /// `cargo xtask bench accuracy` compares more.
    const SIDE_BY_SIDE: usize = 8;

    #[test]
    fn smollm2_agrees_with_mlx_lm() {
        let fixture = Fixture::open();
        let (touched, allocated) = (resident_bytes(), mlx_rs::memory::active_memory().unwrap());
        let model = fixture.load(Kernels::Cpu);
        assert!(model.weight_bytes() > 90_000_000);
        let touched = resident_bytes().saturating_sub(touched);
        assert!(
            touched < model.weight_bytes() / 2,
            "loading touched {touched} bytes: it should read no weights"
        );
        let allocated = mlx_rs::memory::active_memory().unwrap().saturating_sub(allocated);
        assert!(allocated < 1_000_000, "loading allocated {allocated} bytes: it should copy no weights");

        let (mut kvs, next) = fixture.prefill(&model, CPU_TOLERANCE);
        let found = fixture.decode(&model, &mut kvs, &next);
        for (prompt, found) in fixture.reference.prompts.iter().zip(&found) {
            assert_eq!(found, &prompt.greedy, "greedy tokens after prompt `{}`", prompt.name);
        }
        decodes_alike_alone_and_with_others(&model, &mut kvs, &found);
        drop(kvs);
        both_kernels_go_the_same_way(&fixture.reference, &[fixture.load(Kernels::MlxFloat32), model]);
    }

    /// Every logit of every step, where [`agree`] sees some of one; and the probability of a text.
    fn both_kernels_go_the_same_way(reference: &Reference, models: &[Model]) {
        let prompts: Vec<Vec<u32>> = reference
            .prompts
            .iter()
            .map(|prompt| prompt.tokens[prompt.tokens.len() - 9..].to_vec())
            .collect();
        let mut outcomes = lockstep::continue_greedily(models, &prompts, SIDE_BY_SIDE);
        for (outcome, of_text) in outcomes.iter_mut().zip(lockstep::read(models, &prompts)) {
            outcome.merge(of_text);
        }
        let [theirs, ours] = &outcomes[..] else { panic!("one outcome a model") };
        assert_eq!((ours.chosen, ours.predicted), (SIDE_BY_SIDE * prompts.len(), 8 * prompts.len()));
        assert!(ours.largest_difference < CPU_TOLERANCE, "{ours:?}");
        assert!(ours.other_tokens.is_empty(), "{ours:?}");
        // Of few tokens: their errors do not cancel yet as they do in a long text, where 0.05 % is allowed.
        let ratio = ours.perplexity() / theirs.perplexity();
        assert!((ratio - 1.0).abs() < 2e-3, "perplexity {ratio} times that of MLX's operations");
    }

    /// One more token for each sequence, with the others and then alone: not a bit may differ.
    fn decodes_alike_alone_and_with_others(model: &Model, kvs: &mut [SequenceKv], tokens: &[Vec<u32>]) {
        let last: Vec<[u32; 1]> = tokens.iter().map(|tokens| [*tokens.last().unwrap()]).collect();
        let rows = last.iter().zip(&mut *kvs).map(|(tokens, kv)| StepRow::last_logits(tokens, kv));
        let together = forward(model, rows.collect());
        for ((tokens, kv), together) in last.iter().zip(kvs).zip(together) {
            kv.truncate(kv.len() - 1);
            let alone = forward(model, vec![StepRow::last_logits(tokens, kv)]).remove(0);
            assert!(alone.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    /// Memory of this process, mapped pages that were touched included; 0 where that is not known.
    fn resident_bytes() -> u64 {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        // No page is smaller than 4 KiB, which is x86's.
        pages.split_whitespace().nth(1).map_or(0, |pages| 4096 * pages.parse::<u64>().unwrap())
    }
}

mod mlx_expanded {
    use super::*;

    #[test]
    fn smollm2_agrees_with_mlx_lm() {
        let fixture = Fixture::open();
        fixture.prefill(&fixture.load(Kernels::MlxFloat32), MLX_TOLERANCE);
    }
}

mod mlx_float16 {
    use super::*;

    /// As it runs on a GPU. A CPU emulates float16 and takes seconds for each token, so there it computes a few of them.
    #[test]
    fn smollm2_agrees_with_mlx_lm() {
        let fixture = Fixture::open();
        let model = fixture.load(Kernels::Mlx);
        if mlx_ext::Device::current().unwrap() == mlx_ext::Device::Gpu {
            let (mut kvs, next) = fixture.prefill(&model, FLOAT16_TOLERANCE);
            // It takes another token where two are near, and the GPU's kernels depend on the batch.
            let found = fixture.decode(&model, &mut kvs, &next);
            assert!(found.iter().zip(&fixture.reference.prompts).all(|(f, p)| f.len() == p.greedy.len()));
            return;
        }
        let expanded = fixture.load(Kernels::MlxFloat32);
        let tokens = &fixture.reference.prompts[0].tokens[..2];
        let both = [&model, &expanded].map(|model| {
            let mut kv = model.new_kv();
            let mut step = |tokens| forward(model, vec![StepRow::last_logits(tokens, &mut kv)]).remove(0);
            [step(&tokens[..1]), step(&tokens[1..])]
        });
        for (found, expected) in both[0].iter().zip(&both[1]) {
            let largest =
                found.iter().zip(expected).map(|(f, e)| f64::from((f - e).abs())).fold(0.0, f64::max);
            assert!(largest < EMULATED_FLOAT16_TOLERANCE, "{largest}");
        }
    }
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
