//! `cargo xtask bench gateway`: what the gateway costs, and what it does at its limits.
//!
//! Its worker has a trivial engine, so that what is measured is the gateway; `--real` adds what needs a real model.

mod ipc;
mod json_rpc;
mod limits;
mod overhead;
mod plain;
mod real;

use anyhow::Result;
use clap::ValueEnum;

use super::{effort::Effort, machine};
use crate::{
    load::{Programs, Subject},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// What to measure [default: all that needs no model].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Measure with a real model, too.
    #[arg(long)]
    real: bool,
    #[command(flatten)]
    effort: Effort,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// An operation between gateway and worker, beside JSON-RPC over stdio.
    Ipc,
    /// A request, and a streamed token, beside a plain server.
    Overhead,
    /// Requests whose clients leave, and what is still held.
    Cancels,
    /// Connections whose request never becomes complete.
    HalfOpen,
    /// Memory that the gateway keeps of many requests.
    Memory,
    /// Real model: operations of its tokenizer.
    Tokenize,
    /// Real model: 5 to 200 streams, and three times as many as there are places.
    Capacity,
    /// Real model: streams that stop reading, and the others.
    SlowReaders,
}

/// What every part needs.
struct Bench<'a> {
    workspace: &'a Workspace,
    programs: Programs,
    trivial: Subject,
    real: Option<Subject>,
    effort: Effort,
}

/// Builds, measures, prints.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let parts: Vec<Part> = if args.parts.is_empty() {
        let all = Part::value_variants().iter().copied();
        all.filter(|part| args.real || !part.needs_model()).collect()
    } else {
        args.parts.clone()
    };
    let real = args.real || parts.iter().any(|part| part.needs_model());
    let programs = Programs::build(workspace, real)?;
    let trivial = Subject::trivial(&programs)?;
    let real = real.then(|| Subject::real(workspace, &programs)).transpose()?;
    let bench = Bench { workspace, programs, trivial, real, effort: args.effort };
    println!("{}", machine::describe());
    for part in parts {
        machine::say_if_disturbed();
        match part {
            Part::Ipc => ipc::run(&bench)?,
            Part::Overhead => overhead::run(&bench)?,
            Part::Cancels => limits::cancels(&bench)?,
            Part::HalfOpen => limits::half_open(&bench)?,
            Part::Memory => limits::memory(&bench)?,
            Part::Tokenize => ipc::tokenize(&bench)?,
            Part::Capacity => real::capacity(&bench)?,
            Part::SlowReaders => real::slow_readers(&bench)?,
        }
    }
    Ok(())
}

impl Part {
    fn needs_model(self) -> bool {
        matches!(self, Self::Tokenize | Self::Capacity | Self::SlowReaders)
    }
}
