//! `cargo xtask bench serve`: what clients of a real model get over HTTP, beside another server on the same file.
//!
//! kr-load asks both, in turns. Each measurement has a server of its own, so that none knows prompts of an earlier one.

mod contender;
mod fairness;
mod json;
mod leaks;
mod long;
mod sampling;
mod shared;
mod speculation;
mod speed;
mod streams;
mod turns;

use std::{path::PathBuf, thread};

use anyhow::Result;
use clap::ValueEnum;

use super::{effort::Effort, machine, server::LlamaServer};
use crate::{
    load::{Programs, Subject},
    model,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// What to measure [default: everything].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// llama.cpp's `llama-server`, to be measured as well, with the file that our model was imported from.
    #[arg(long, value_name = "PATH")]
    llama_server: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 1 to 200 clients with short prompts, each of which asks again when it has its answer.
    Streams,
    /// Four prompts of 1,000 tokens at once.
    Long,
    /// Prompts that begin alike, with and without `prefix_cache.enabled`.
    Shared,
    /// A conversation that grows to 6,000 tokens.
    Turns,
    /// A prompt of 6,000 tokens that arrives while a stream goes on.
    Fairness,
    /// 50 streams whose tokens are drawn, beside 50 greedy ones.
    Sampling,
    /// Texts that are written again with a change, and free ones, with and without `speculation`.
    Speculation,
    /// Answers that have to be JSON of some schema, and what a token of them costs.
    Json,
    /// 2,000 requests of all kinds, a third of them given up, and what the worker keeps of them.
    Leaks,
}

/// What every part needs.
struct Bench {
    programs: Programs,
    subject: Subject,
    llama_server: Option<LlamaServer>,
    effort: Effort,
}

/// Builds, measures, prints.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let parts = if args.parts.is_empty() { Part::value_variants() } else { &args.parts };
    let programs = Programs::build(workspace, true)?;
    let subject = Subject::real(workspace, &programs)?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let llama_server = match &args.llama_server {
        Some(path) => Some(LlamaServer::new(path, &model::file(workspace)?, threads)),
        None => None,
    };
    let bench = Bench { programs, subject, llama_server, effort: args.effort };
    println!("{}\n{}, {} rounds", machine::describe(), bench.subject.model, bench.effort.rounds());
    for part in parts {
        machine::say_if_disturbed();
        match part {
            Part::Streams => streams::run(&bench)?,
            Part::Long => long::run(&bench)?,
            Part::Shared => shared::run(&bench)?,
            Part::Turns => turns::run(&bench)?,
            Part::Fairness => fairness::run(&bench)?,
            Part::Sampling => sampling::run(&bench)?,
            Part::Speculation => speculation::run(&bench)?,
            Part::Json => json::run(&bench)?,
            Part::Leaks => leaks::run(&bench)?,
        }
    }
    Ok(())
}
