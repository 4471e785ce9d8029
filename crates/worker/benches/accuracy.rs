//! What the CPU kernels cost in accuracy on a real model: against MLX's own operations in float32 on the same weights.
//! Started by `cargo xtask bench accuracy`; ends with 1 if a bound is broken.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/lockstep/mod.rs"]
mod lockstep;

use std::{process::ExitCode, thread};

use artifact_store::{Artifact, Store};
use lockstep::Outcome;
use tokenizers::Tokenizer;
use worker::model::{Kernels, KvBudget, KvDtype, Model};

/// Questions begin with `? ` and are asked in a chat; all others are beginnings of a text.
const PROMPTS: &str = include_str!("accuracy/prompts.txt");

/// Written for this purpose, in several registers.
const TEXT: &str = include_str!("accuracy/text.txt");

/// Tokens of each continuation.
const GREEDY: usize = 64;

/// Tokens of each part that the text is cut into.
const PART: usize = 256;

const BUDGET: KvBudget =
    KvBudget { bytes: 256 << 20, sequences: 32, dtype: KvDtype::Float32, step_tokens: Some(64) };

/// A way to run the model.
struct Variant {
    name: &'static str,
    load: fn(&Artifact) -> Model,
    /// What it promises; `None`: it is measured only.
    bounds: Option<Bounds>,
}

/// Beside MLX's operations.
struct Bounds {
    /// Of every logit.
    difference: f64,
    /// Relative difference of the text's perplexity.
    perplexity: f64,
}

/// The first is what the others are compared with.
const VARIANTS: [Variant; 4] = [
    Variant {
        name: "MLX, float32",
        load: |artifact| Model::load(artifact, Kernels::MlxFloat32, BUDGET).unwrap(),
        bounds: None,
    },
    Variant {
        name: "own kernels",
        load: |artifact| Model::load(artifact, Kernels::Cpu, BUDGET).unwrap(),
        bounds: Some(Bounds { difference: 0.01, perplexity: 0.000_5 }),
    },
    Variant {
        name: "own, KV in float16",
        load: |artifact| {
            Model::load(artifact, Kernels::Cpu, KvBudget { dtype: KvDtype::Float16, ..BUDGET }).unwrap()
        },
        bounds: None,
    },
    Variant {
        name: "own, int8",
        load: |artifact| Model::load(artifact, Kernels::CpuInt8, BUDGET).unwrap(),
        bounds: None,
    },
];

/// What all variants get, as tokens.
struct Inputs {
    prompts: Vec<Vec<u32>>,
    texts: Vec<Vec<u32>>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    let [store, name] = arguments.as_slice() else {
        panic!("two arguments are wanted, a store and a model: run `cargo xtask bench accuracy`")
    };
    let artifact = Store::open_read_only(store).unwrap().resolve(name).unwrap();
    let inputs = Inputs::read(&artifact);
    println!(
        "{name}: {} prompts continued by {GREEDY} tokens each, a text of {} tokens in parts of {PART}\n",
        inputs.prompts.len(),
        inputs.texts.len() * PART
    );
    let outcomes = compare(&artifact, &inputs);
    let broken = report(&outcomes, inputs.prompts.len());
    for broken in &broken {
        println!("broken: {broken}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Inputs {
    fn read(artifact: &Artifact) -> Self {
        let tokenizer = Tokenizer::from_bytes(artifact.read_tokenizer().unwrap()).unwrap();
        let tokens = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        let prompt = |line: &str| match line.strip_prefix("? ") {
            Some(question) => {
                tokens(&format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"))
            }
            None => tokens(line),
        };
        let texts = tokens(TEXT).chunks_exact(PART).map(<[u32]>::to_vec).collect();
        Self { prompts: PROMPTS.lines().map(prompt).collect(), texts }
    }
}

/// MLX's operations take one core, and a tenth of a second for each token: so every core gets a share of the inputs, and
/// a copy of all models, which costs nothing but the memory for keys and values.
fn compare(artifact: &Artifact, inputs: &Inputs) -> Vec<Outcome> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = |of: &[Vec<u32>], core: usize| -> Vec<Vec<u32>> {
        of.iter().skip(core).step_by(cores).cloned().collect()
    };
    let work = |core: usize| {
        mlx_ext::init().unwrap();
        let models: Vec<Model> = VARIANTS.iter().map(|variant| (variant.load)(artifact)).collect();
        let (prompts, texts) = (share(&inputs.prompts, core), share(&inputs.texts, core));
        let mut outcomes = vec![Outcome::default(); models.len()];
        let mut add = |more: Vec<Outcome>| {
            outcomes.iter_mut().zip(more).for_each(|(outcome, more)| outcome.merge(more));
        };
        if !prompts.is_empty() {
            let mut more = lockstep::continue_greedily(&models, &prompts, GREEDY);
            // As they are counted among all prompts.
            let others = more.iter_mut().flat_map(|outcome| &mut outcome.other_tokens);
            others.for_each(|other| other.sequence = other.sequence * cores + core);
            add(more);
        }
        if !texts.is_empty() {
            add(lockstep::read(&models, &texts));
        }
        outcomes
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(move || work(core))).collect();
        let shares = threads.into_iter().map(|thread| thread.join().unwrap());
        shares
            .reduce(|mut all, share| {
                all.iter_mut().zip(share).for_each(|(outcome, more)| outcome.merge(more));
                all
            })
            .unwrap()
    })
}

/// Prints a table, and returns which bounds are broken. Its first columns are the largest differences of logits: after the
/// prompts, and anywhere in continuations and text, some hundred million logits.
fn report(outcomes: &[Outcome], prompts: usize) -> Vec<String> {
    println!(
        "| {:<20} | {:>13} | {:>13} | {:>13} | {:>10} | {:>10} |",
        "", "after prompts", "anywhere", "prompts alike", "perplexity", "relative"
    );
    println!("|-{:-<20}-|-{:->13}:|-{:->13}:|-{:->13}:|-{:->10}:|-{:->10}:|", "", "", "", "", "", "");
    let perplexity = outcomes[0].perplexity();
    let mut broken = Vec::new();
    for (variant, outcome) in VARIANTS.iter().zip(outcomes) {
        let relative = outcome.perplexity() / perplexity - 1.0;
        let mut others: Vec<_> = outcome.other_tokens.iter().collect();
        others.sort_by_key(|other| (other.sequence, other.index));
        others.dedup_by_key(|other| other.sequence);
        println!(
            "| {:<20} | {:>13.6} | {:>13.6} | {:>13} | {:>10.5} | {:>8.4} % |",
            variant.name,
            outcome.after_prompts,
            outcome.largest_difference,
            format!("{} of {prompts}", prompts - others.len()),
            outcome.perplexity(),
            100.0 * relative
        );
        let Some(bounds) = &variant.bounds else { continue };
        if outcome.largest_difference >= bounds.difference {
            broken.push(format!("{}: a logit differs by {}", variant.name, outcome.largest_difference));
        }
        if relative.abs() >= bounds.perplexity {
            broken.push(format!("{}: the perplexity differs by {:.4} %", variant.name, 100.0 * relative));
        }
        broken.extend(others.iter().map(|other| {
            format!(
                "{}: token {} after prompt {} is another; the two best logits are {:.6} apart",
                variant.name,
                other.index + 1,
                other.sequence + 1,
                other.margin
            )
        }));
    }
    broken
}
