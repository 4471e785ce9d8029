//! `cargo xtask chaos`: streams while workers are killed and frozen. Nothing may be lost.
#![allow(clippy::print_stdout)] // the report is the output

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    bench::{describe_machine, table},
    load::{self, Outcome, Programs, Setting, Subject, number},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: u32,
    /// Streams that are open at the same time.
    #[arg(long, value_name = "N", default_value_t = 50)]
    streams: u32,
    /// How long workers are attacked, such as 60s or 10m.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    duration: String,
    /// Time between two attacks.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    every: String,
    /// Attack at random moments, as many in all.
    #[arg(long)]
    random: bool,
    /// Attacks that freeze a worker instead of killing it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    freezes: u32,
    /// Tokens of each stream. One that is in flight during two freezes or eight kills without a new token in between
    /// ends with an error by design; any number of attacks does not matter to one that goes on between them.
    #[arg(long, value_name = "N", default_value_t = 24)]
    tokens: u32,
    /// Of random moments and of the choice of workers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Who runs the model.
    #[arg(long, value_enum, default_value_t = Worker::Real)]
    worker: Worker,
}

/// A worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Worker {
    /// kr-worker with a small model.
    Real,
    /// A trivial engine with 20 tokens per second and stream.
    Bench,
}

/// Tokens a second of each stream of the trivial engine.
const RATE: u32 = 20;

/// Builds, attacks, prints, and fails if anything was lost.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let programs = Programs::build(workspace, args.worker == Worker::Real)?;
    let subject = match args.worker {
        Worker::Real => Subject::real(workspace, &programs)?,
        Worker::Bench => Subject::trivial(&programs)?,
    };
    let setting = Setting { workers: args.workers, rate: RATE, config: config(args) };
    let gateway = programs.start(&subject, &setting)?;
    gateway.wait_for_workers(args.workers);
    println!("{}\n", describe_machine());

    let [streams, freezes, tokens, seed] =
        [u64::from(args.streams), args.freezes.into(), args.tokens.into(), args.seed]
            .map(|it| it.to_string());
    let mut experiment = vec!["chaos", "--streams", &streams, "--duration", &args.duration];
    experiment.extend(["--every", &args.every, "--freezes", &freezes, "--tokens", &tokens, "--seed", &seed]);
    if args.random {
        experiment.push("--random");
    }
    let Outcome { report, is_clean } = gateway.try_run(&experiment)?;
    print(&report, &subject.model, args)?;
    if is_clean { Ok(()) } else { bail!("streams were lost, changed or not ended properly; see above") }
}

/// Places for all streams; and workers are started again however often they were killed, since it is not their own doing.
fn config(args: &Args) -> String {
    format!("workers:\n  crash_loop_deaths: 1000\n{}", load::places(args.streams))
}

fn print(report: &Value, model: &str, args: &Args) -> Result<()> {
    let count = |path: &str| number(report, path).map(|value| format!("{value}"));
    let optional = |key: &str| report[key].as_f64().map_or("not counted".to_owned(), |it| format!("{it}"));
    let mut counts = table(&["", "count"]);
    for (what, value) in [
        ("streams", count("/streams")?),
        ("of these whole, with the text of the undisturbed run", count("/whole")?),
        ("with another text", count("/different")?),
        ("without exactly one terminal event", count("/not_one_end")?),
        ("texts compared with", count("/texts")?),
        ("429 with Retry-After, honoured", count("/deferred")?),
        ("workers killed", count("/kills")?),
        ("workers frozen", count("/freezes")?),
        ("attacks for which no worker was ready", count("/missed")?),
        ("restarts", optional("restarts")),
        ("migrations", optional("migrations")),
    ] {
        counts.add_row([what.to_owned(), value]);
    }
    for (fault, count) in report["lost"].as_object().into_iter().flatten() {
        counts.add_row([format!("lost: {fault}"), count.to_string()]);
    }
    println!("{model}, {} workers, {} streams, {}\n\n{counts}\n", args.workers, args.streams, args.duration);

    let mut times = table(&["ms", "count", "p50", "p99", "max"]);
    for (what, key) in [
        ("first text", "first_token"),
        ("between two texts of a stream", "gaps"),
        ("of these, during an attack", "gaps_across_attacks"),
    ] {
        let millis =
            |which: &str| number(report, &format!("/{key}/{which}")).map(|it| format!("{:.1}", it / 1e3));
        times.add_row([
            what.to_owned(),
            count(&format!("/{key}/count"))?,
            millis("p50")?,
            millis("p99")?,
            millis("max")?,
        ]);
    }
    println!("{times}");
    Ok(())
}
