//! Engines that are measured: ours, llama.cpp in two ways, mlx-lm.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{case::Case, server::LlamaServer};
use crate::process;

/// An engine.
pub(super) enum Peer {
    /// A process that answers each case, given as a line, with a line: our benchmark, and mlx-lm under a script of ours.
    Asked(Asked),
    /// llama.cpp's own benchmarks.
    LlamaBench { bench: PathBuf, batched: PathBuf, model: PathBuf, threads: usize },
    /// llama.cpp's server, with as many requests at once as the batch is large.
    LlamaServer(LlamaServer),
}

/// A process that measures when it is told to, and waits in between.
pub(super) struct Asked {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// What it said of itself.
    pub(super) greeting: String,
}

impl Peer {
    /// `llama-bench`, and `llama-batched-bench` beside it.
    pub(super) fn llama_bench(bench: &Path, model: &Path, threads: usize) -> Result<Self> {
        let batched = bench.with_file_name("llama-batched-bench");
        if !batched.is_file() {
            bail!(
                "{} is missing: llama-bench alone cannot decode several sequences at once",
                batched.display()
            );
        }
        Ok(Self::LlamaBench { bench: bench.to_owned(), batched, model: model.to_owned(), threads })
    }

    /// Tokens a second.
    pub(super) fn measure(&mut self, case: Case) -> Result<f64> {
        match self {
            Self::Asked(asked) => asked.measure(case),
            Self::LlamaServer(server) => server.measure(case),
            Self::LlamaBench { bench, batched, model, threads } => {
                let (program, batch) = match case {
                    Case::Decode { batch, .. } if batch > 1 => (batched, batch),
                    Case::Decode { .. } | Case::Prefill { .. } => (bench, 1),
                };
                let mut command = Command::new(program);
                command.arg("-m").arg(model).args(["-t", &threads.to_string()]);
                match (case, batch) {
                    // Both warm up by themselves. llama-bench's repetitions are the rounds of this run.
                    (Case::Prefill { tokens }, _) => {
                        command.args(["-o", "json", "-r", "1", "-n", "0", "-p", &tokens.to_string()]);
                        llama_bench(command)
                    }
                    (Case::Decode { context, steps, .. }, 1) => {
                        command.args(["-o", "json", "-r", "1", "-p", "0", "-n", &steps.to_string()]);
                        command.args(["-d", &context.to_string()]);
                        llama_bench(command)
                    }
                    (Case::Decode { context, steps, .. }, _) => {
                        command.args(["-npp", &context.to_string(), "-ntg", &steps.to_string()]);
                        command.args(["-npl", &batch.to_string(), "--output-format", "jsonl"]);
                        command.args(["-c", &(batch * (context + steps + 1)).to_string()]);
                        llama_batched_bench(command)
                    }
                }
            }
        }
    }
}

impl Asked {
    /// Starts it and waits until it has loaded its model.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let shown = process::display(&command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let (input, output) =
            child.stdin.take().zip(child.stdout.take()).context("its pipes were asked for")?;
        let mut asked =
            Self { child, input, output: BufReader::new(output).lines(), greeting: String::new() };
        asked.greeting = asked.line().with_context(|| format!("`{shown}` did not start"))?;
        Ok(asked)
    }

    fn measure(&mut self, case: Case) -> Result<f64> {
        match self.ask(&case)?[..] {
            [rate] => Ok(rate),
            ref others => bail!("the measuring process answered {case} with {} numbers", others.len()),
        }
    }

    /// The numbers with which it answers a line.
    pub(super) fn ask(&mut self, question: &impl Display) -> Result<Vec<f64>> {
        writeln!(self.input, "{question}").context("the measuring process ended")?;
        let line = self.line()?;
        let numbers: Result<_, _> = line.split_whitespace().map(str::parse).collect();
        numbers.with_context(|| format!("the measuring process answered {question} with {line:?}"))
    }

    fn line(&mut self) -> Result<String> {
        self.output.next().context("the measuring process ended; its error is above")?.context("unreadable")
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // It only waits for the next line; should it be gone already, there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn llama_bench(command: Command) -> Result<f64> {
    let text = process::output(command)?;
    let results: Value = serde_json::from_str(&text).context("llama-bench printed no JSON")?;
    results[0]["avg_ts"].as_f64().context("llama-bench's result has no `avg_ts`")
}

fn llama_batched_bench(command: Command) -> Result<f64> {
    let text = process::output(command)?;
    let results = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let speed = results.filter_map(|result| result["speed_tg"].as_f64()).next_back();
    speed.context("llama-batched-bench printed no `speed_tg`")
}
