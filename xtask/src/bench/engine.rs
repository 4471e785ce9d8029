//! `cargo xtask bench engine`: the whole model, beside other engines on the same file.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result};

use super::{
    case::Case,
    machine,
    peers::{Asked, Peer},
    server::LlamaServer,
    stages,
    statistics::Sample,
    subject::Subject,
    table,
};
use crate::{model, workspace::Workspace};

/// Measures mlx-lm.
const MLX_LM: &str = include_str!("mlx_lm.py");

/// Tokens of each sequence before the first decode step, and steps of a measurement.
const CONTEXT: usize = 32;
const STEPS: usize = 32;

/// How our benchmark is told to choose tokens: by temperature and top-p, or greedily. Otherwise it chooses none.
const SAMPLED: &[&str] = &["0.8", "0.95"];
const GREEDY: &[&str] = &["greedy"];

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    subject: Subject,
    /// GGUF file of the same model, for the other engines [default: the one the default model is imported from].
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// llama.cpp's `llama-bench`, with `llama-batched-bench` beside it.
    #[arg(long, value_name = "PATH")]
    llama_bench: Option<PathBuf>,
    /// llama.cpp's `llama-server`.
    #[arg(long, value_name = "PATH")]
    llama_server: Option<PathBuf>,
    /// Python with mlx-lm, which is measured in float32 (a script that preloads a BLAS first will do).
    #[arg(long, value_name = "PATH")]
    mlx_lm: Option<PathBuf>,
    /// The executable of this benchmark from another build, such as that of an earlier commit:
    /// `cargo bench -p worker --bench engine --no-run` names it.
    #[arg(long, value_name = "PATH")]
    other_build: Option<PathBuf>,
    /// Decode with the choice of tokens, as with temperature 0.8 and top-p 0.95, beside greedy; no prompt.
    #[arg(long, conflicts_with_all = ["llama_bench", "llama_server", "mlx_lm"])]
    sampled: bool,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 512)]
    prefill: usize,
    /// Sequences that decode together.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 8, 32, 50])]
    batches: Vec<usize>,
    /// How often everything is measured, in turns.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
}

/// An engine, and what it reached in each case.
struct Entrant {
    name: &'static str,
    peer: Peer,
    rates: Vec<Sample>,
}

/// Sets up, builds, provides the model, measures, prints.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let command = args.subject.command(workspace, "engine")?;
    let greedy = args.subject.measured_by(workspace, Path::new(command.get_program()));
    let decode = |&batch: &usize| Case::Decode { batch, context: CONTEXT, steps: STEPS };
    let prefill = (!args.sampled).then_some(Case::Prefill { tokens: args.prefill });
    let cases: Vec<Case> = prefill.into_iter().chain(args.batches.iter().map(decode)).collect();
    let (name, choice) = if args.sampled { ("sampled", SAMPLED) } else { ("kr-serve", &[][..]) };
    let ours = start(command, choice)?;
    println!("{}\n{}: {}", machine::describe(), args.subject.name(), ours.greeting);
    let mut entrants = vec![Entrant::new(name, Peer::Asked(ours), cases.len())];
    if args.sampled {
        entrants.push(Entrant::new("greedy", Peer::Asked(start(greedy, GREEDY)?), cases.len()));
    }
    if let Some(path) = &args.other_build {
        let asked = start(args.subject.measured_by(workspace, path), choice)?;
        entrants.push(Entrant::new("other build", Peer::Asked(asked), cases.len()));
    }
    if args.llama_bench.is_some() || args.llama_server.is_some() || args.mlx_lm.is_some() {
        entrants.extend(others(workspace, args, cases.len())?);
    }
    let mut disturbed = 0;
    for round in 0..args.rounds {
        for (index, &case) in cases.iter().enumerate() {
            disturbed += usize::from(machine::is_disturbed());
            // In turns, and every other round in the opposite order, so that nobody always comes after the same one.
            let mut turn: Vec<&mut Entrant> = entrants.iter_mut().collect();
            if round % 2 == 1 {
                turn.reverse();
            }
            for entrant in turn {
                let rate = entrant.peer.measure(case).with_context(|| format!("{}, {case}", entrant.name))?;
                entrant.rates[index].add(rate);
                eprintln!(
                    "round {}: {:<24} {:<12} {rate:>9.1} tokens/s",
                    round + 1,
                    case.title(),
                    entrant.name
                );
            }
        }
    }
    print(&cases, &entrants, args.rounds);
    if let Some(Entrant { peer: Peer::Asked(ours), .. }) = entrants.first_mut() {
        stages::print(ours, &args.batches, CONTEXT, STEPS)?;
    }
    if disturbed > 0 {
        println!("Something else ran before {disturbed} of {} measurements.", args.rounds * cases.len());
    }
    Ok(())
}

/// Starts our benchmark.
fn start(mut command: Command, choice: &[&str]) -> Result<Asked> {
    command.args(choice);
    Asked::start(command)
}

/// The other engines that were asked for.
fn others(workspace: &Workspace, args: &Args, cases: usize) -> Result<Vec<Entrant>> {
    let gguf = match (&args.gguf, &args.subject.model) {
        (Some(file), _) => file.clone(),
        (None, None) => model::file(workspace)?,
        (None, Some(model)) => anyhow::bail!("say with --gguf which file of {model} the other engines get"),
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut others = Vec::new();
    if let Some(path) = &args.llama_bench {
        others.push(Entrant::new("llama-bench", Peer::llama_bench(path, &gguf, threads)?, cases));
    }
    if let Some(path) = &args.llama_server {
        let server = LlamaServer::new(path, &gguf, threads);
        others.push(Entrant::new("llama-server", Peer::LlamaServer(server), cases));
    }
    if let Some(python) = &args.mlx_lm {
        let asked = mlx_lm(python, &gguf)?;
        println!("{}", asked.greeting);
        others.push(Entrant::new("mlx-lm", Peer::Asked(asked), cases));
    }
    Ok(others)
}

fn mlx_lm(python: &Path, gguf: &Path) -> Result<Asked> {
    let mut command = Command::new(python);
    command.args(["-c", MLX_LM]).arg(gguf);
    Asked::start(command)
}

impl Entrant {
    fn new(name: &'static str, peer: Peer, cases: usize) -> Self {
        Self { name, peer, rates: vec![Sample::default(); cases] }
    }
}

/// Medians over the rounds, and our ratio to each of the others with its range.
fn print(cases: &[Case], entrants: &[Entrant], rounds: usize) {
    let Some((ours, others)) = entrants.split_first() else { return };
    let mut header = vec!["tokens a second".to_owned(), ours.name.to_owned()];
    for other in others {
        header.extend([other.name.to_owned(), format!("ratio to {}", other.name)]);
    }
    let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for (index, case) in cases.iter().enumerate() {
        let rates = &ours.rates[index];
        let mut row =
            vec![case.title(), format!("{:.0} ({:.0}-{:.0})", rates.median(), rates.min(), rates.max())];
        for other in others {
            let ratios = rates.ratios(&other.rates[index]);
            row.push(format!("{:.0}", other.rates[index].median()));
            row.push(format!("{:.2} ({:.2}-{:.2})", ratios.median(), ratios.min(), ratios.max()));
        }
        table.add_row(row);
    }
    println!(
        "\n{table}\n\nMedians of {rounds} rounds, in which all were measured in turns; in brackets the least and the most."
    );
    println!("Decode: {STEPS} steps of sequences of {CONTEXT} tokens.");
}
