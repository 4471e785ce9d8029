//! `cargo xtask bench`: figures, measured here and now.
//!
//! Nothing else should run meanwhile. Whatever is compared is measured in turns, within one run: the speed of a shared or
//! a hot machine changes by the minute.
#![allow(clippy::print_stdout)] // tables are the output

mod accuracy;
mod case;
mod effort;
mod engine;
mod figures;
mod gateway;
mod kernels;
mod machine;
mod peers;
mod running;
mod serve;
mod server;
mod stages;
mod statistics;
mod store;
mod subject;
mod synthetic;

use anyhow::Result;
use clap::Subcommand;
use comfy_table::{CellAlignment, Table, presets};

use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Products, experts, attention, states and whole layers, beside MLX's operations, a plain read of memory and the peak of
    /// the instruction used.
    Kernels(kernels::Args),
    /// The whole model: tokens a second of prefill and of decode in batches, beside other engines.
    Engine(engine::Args),
    /// What the CPU kernels cost in accuracy: logits, greedy tokens, perplexity, beside MLX's operations in float32.
    Accuracy(accuracy::Args),
    /// What clients of a real model get over HTTP, beside another server: speed, first tokens, conversations, fairness.
    Serve(serve::Args),
    /// The artifact store: first load and reload at several sizes, memory of several workers, hashing.
    Store(store::Args),
    /// The gateway: what an operation, a request and a streamed token cost, and what it does at its limits.
    Gateway(gateway::Args),
}

/// Sets up, builds and measures.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    match &args.what {
        What::Kernels(args) => kernels::run(workspace, args),
        What::Engine(args) => engine::run(workspace, args),
        What::Accuracy(args) => accuracy::run(workspace, args),
        What::Serve(args) => serve::run(workspace, args),
        What::Store(args) => store::run(workspace, args),
        What::Gateway(args) => gateway::run(workspace, args),
    }
}

/// The machine, in one line.
pub(crate) fn describe_machine() -> String {
    machine::describe()
}

/// A table that can be pasted into a Markdown document; all columns but the first are numbers.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
