//! llama.cpp's server as an engine to measure.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::case::Case;
use crate::process;

/// The server's executable and what to start it with.
pub(super) struct LlamaServer {
    program: PathBuf,
    model: PathBuf,
    threads: usize,
}

/// A running server; killed when dropped.
pub(super) struct Running {
    child: Child,
    address: String,
}

impl LlamaServer {
    pub(super) fn new(program: &Path, model: &Path, threads: usize) -> Self {
        Self { program: program.to_owned(), model: model.to_owned(), threads }
    }

    /// Tokens a second, by the server's own clock: of each request it tells how long its tokens took. They are asked for
    /// at the same time and have the same lengths, so that the sum of their speeds is the speed of the batch.
    pub(super) fn measure(&self, case: Case) -> Result<f64> {
        match case {
            Case::Prefill { tokens } => {
                let server = self.start(1, tokens + 8)?;
                server.complete(0, tokens, 1)?;
                // Other tokens than those of the first request: the server remembers prompts.
                server.complete(1, tokens, 1)?["prompt_per_second"].as_f64()
            }
            Case::Decode { batch, context, steps } => {
                let server = self.start(batch, context + steps + 8)?;
                server.complete(0, context, steps)?;
                let timings = thread::scope(|scope| {
                    let requests: Vec<_> = (0..batch)
                        .map(|row| {
                            scope.spawn({
                                let server = &server;
                                move || server.complete(row + 1, context, steps)
                            })
                        })
                        .collect();
                    let answers = requests.into_iter().map(|request| {
                        request.join().unwrap_or_else(|_| Err(anyhow!("a request's thread panicked")))
                    });
                    answers.collect::<Result<Vec<_>>>()
                })?;
                timings.iter().map(|timing| timing["predicted_per_second"].as_f64()).sum()
            }
        }
        .context("llama-server's answer has no timings")
    }

    /// Starts it for `slots` sequences at the same time, of `tokens_each` tokens at most.
    pub(super) fn start(&self, slots: usize, tokens_each: usize) -> Result<Running> {
        // Freed again at once, and taken by the server: it cannot choose a port by itself.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.model);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["-t", &self.threads.to_string(), "-np", &slots.to_string()]);
        command.args(["-c", &(slots * tokens_each).to_string()]);
        let shown = process::display(&command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let log = child.stderr.take().context("its pipe was asked for")?;
        let running = Running { child, address: format!("127.0.0.1:{port}") };
        let mut lines = BufReader::new(log).lines();
        lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("listening on"))
            .with_context(|| format!("`{shown}` ended before it listened"))?;
        // Its log has to be read on, or it would block.
        thread::spawn(move || lines.for_each(drop));
        Ok(running)
    }
}

impl Running {
    /// Where it listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Timings of a request with `prompt` tokens that differ by `seed`, and `answer` tokens.
    fn complete(&self, seed: usize, prompt: usize, answer: usize) -> Result<Value> {
        let tokens: Vec<usize> = (0..prompt).map(|i| ((i + seed * 31) * 7919 + 13) % 40_000).collect();
        let request = json!({
            "prompt": tokens, "n_predict": answer, "ignore_eos": true, "cache_prompt": false, "temperature": 0.0,
        });
        let mut response = ureq::post(format!("http://{}/completion", self.address)).send_json(&request)?;
        let mut answer: Value = response.body_mut().read_json()?;
        Ok(answer["timings"].take())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Should it be gone already, there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
