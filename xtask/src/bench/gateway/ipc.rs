//! What an operation costs between the gateway's link and a worker, beside JSON-RPC over standard input and output.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, json_rpc::JsonRpc};
use crate::{
    bench::{
        figures::{Figures, shown},
        statistics::Sample,
        table,
    },
    binaries,
    load::{Subject, number},
    process,
};

/// Operations of a measurement.
const OPERATIONS: [u32; 2] = [1000, 100_000];

/// Operations under way at the same time, what they should cost in microseconds, and whether JSON-RPC is measured: more
/// than 64 in flight make no difference to it.
const IN_FLIGHT: [(u32, &str, bool); 3] = [(1, "15", true), (64, "", true), (1024, "0.8", false)];

/// Tokenized by a real worker.
const TEXT: &str = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. \
                    How vexingly quick daft zebras jump! Sphinx of black quartz, judge my vow.";

/// What one case took in all rounds.
#[derive(Default)]
struct Case {
    ours: Sample,
    theirs: Sample,
    wakeups: Sample,
    bytes: Sample,
}

/// Trivial operations, one at a time and many in flight.
pub(super) fn run(bench: &Bench<'_>) -> Result<()> {
    let program = binaries::benchmark(bench.workspace, "gateway", "ipc")?;
    let worker = bench.programs.bench_worker.clone();
    let json_rpc = JsonRpc::new()?;
    let mut table = table(&[
        "operations",
        "in flight",
        "JSON-RPC, us",
        "rings, us",
        "least - most",
        "goal",
        "ratio (least - most)",
        "rings, a second",
        "wake-ups each",
        "bytes each",
    ]);
    for operations in OPERATIONS {
        let operations = bench.effort.count(operations);
        for (in_flight, goal, compared) in IN_FLIGHT.into_iter().filter(|case| case.0 <= operations) {
            let mut case = Case::default();
            for _ in 0..bench.effort.rounds() {
                if compared {
                    case.theirs.add(json_rpc.measure(operations, in_flight)?);
                }
                let mut command = Command::new(&program);
                command.arg(&worker);
                case.add(&measure(command, operations, in_flight)?)?;
            }
            table.add_row(case.row(operations, in_flight, goal, compared));
        }
    }
    println!("\nCounting the bytes of a short text in another process; {}\n\n{table}", json_rpc.describe()?);
    Ok(())
}

/// Operations of a real worker's tokenizer.
pub(super) fn tokenize(bench: &Bench<'_>) -> Result<()> {
    let program = binaries::benchmark(bench.workspace, "gateway", "ipc")?;
    let subject = bench.real.as_ref().context("a real model was asked for")?;
    let worker = bench.programs.gateway.with_file_name("kr-worker");
    let mut figures = Figures::default();
    for _ in 0..bench.effort.rounds() {
        for in_flight in [1, 64] {
            let command = tokenizing(&program, &worker, subject);
            let report = measure(command, bench.effort.count(50_000), in_flight)?;
            let rate = number(&report, "/operations")? / number(&report, "/seconds")?;
            figures.add(&format!("a second, {in_flight} in flight"), "", rate);
        }
    }
    figures.print(&format!("{}: a text of {} bytes is tokenized", subject.model, TEXT.len()));
    Ok(())
}

fn tokenizing(program: &Path, worker: &PathBuf, subject: &Subject) -> Command {
    let mut command = Command::new(program);
    command.arg(worker).args(["--tokenize", TEXT, "--model", &subject.model]);
    command.arg("--store").arg(subject.store());
    command
}

fn measure(mut command: Command, operations: u32, in_flight: u32) -> Result<Value> {
    command.args(["--operations", &operations.to_string(), "--in-flight", &in_flight.to_string()]);
    let text = process::output(command)?;
    serde_json::from_str(&text).context("the benchmark printed no JSON")
}

impl Case {
    fn add(&mut self, report: &Value) -> Result<()> {
        self.ours.add(number(report, "/seconds")? * 1e6 / number(report, "/operations")?);
        for (sample, key) in [(&mut self.wakeups, "wakeups"), (&mut self.bytes, "bytes")] {
            if let Some(each) = report[key].as_f64() {
                sample.add(each);
            }
        }
        Ok(())
    }

    fn row(&self, operations: u32, in_flight: u32, goal: &str, compared: bool) -> Vec<String> {
        let counted =
            |sample: &Sample| if sample.is_empty() { "-".to_owned() } else { shown(sample.median()) };
        let range = |sample: &Sample| format!("{} - {}", shown(sample.min()), shown(sample.max()));
        let ratios = self.theirs.ratios(&self.ours);
        let (theirs, ratio) = if compared {
            (shown(self.theirs.median()), format!("{} ({})", shown(ratios.median()), range(&ratios)))
        } else {
            (String::new(), String::new())
        };
        vec![
            operations.to_string(),
            in_flight.to_string(),
            theirs,
            shown(self.ours.median()),
            range(&self.ours),
            goal.to_owned(),
            ratio,
            shown(1e6 / self.ours.median()),
            counted(&self.wakeups),
            counted(&self.bytes),
        ]
    }
}
