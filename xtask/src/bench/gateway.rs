//! A gateway with its workers, started to be measured.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use ureq::Agent;

use crate::{binaries::Binaries, process};

/// Longest time for an answer, and for workers to end.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A running gateway; it and its workers have ended when this is dropped.
pub(super) struct Gateway {
    child: Child,
    base: String,
    agent: Agent,
    /// From its start to its readiness line.
    pub(super) took: Duration,
}

impl Gateway {
    /// Starts it and waits until a first worker can answer.
    pub(super) fn start(binaries: &Binaries, store: &Path, model: &str, workers: usize) -> Result<Self> {
        let mut command = Command::new(&binaries.gateway);
        command
            .args(["--port", "0", "--workers", &workers.to_string(), "--model", model, "--store"])
            .arg(store);
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
        let shown = process::display(&command);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        let output = child.stdout.take().context("its pipe was asked for")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let base = lines.find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
        let took = started.elapsed();
        let config = Agent::config_builder().timeout_global(Some(TIMEOUT)).build();
        let base = base.with_context(|| format!("`{shown}` ended before it was ready; its log is above"))?;
        Ok(Self { child, base, agent: config.into(), took })
    }

    /// What the workers reported as `load_micros`: from a worker's start until its weights could be used.
    pub(super) fn load_times(&self) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        collect(&self.get("/readyz")?, "load_micros", &mut times);
        Ok(times.into_iter().map(Duration::from_micros).collect())
    }

    /// Waits until `count` workers have loaded.
    pub(super) fn wait_for_workers(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while self.load_times()?.len() < count {
            if Instant::now() > deadline {
                bail!("{count} workers were to load, and did not within {TIMEOUT:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Process ids of the workers.
    pub(super) fn workers(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        collect(&self.get("/readyz")?, "pid", &mut pids);
        Ok(pids.into_iter().filter_map(|pid| pid.try_into().ok()).collect())
    }

    /// Has `model` answer with `tokens` tokens.
    pub(super) fn answer(&self, model: &str, tokens: u32) -> Result<()> {
        let request = json!({
            "model": model, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
            "messages": [{ "role": "user", "content": "w1 w2 w3" }],
        });
        let response = self.agent.post(format!("{}/v1/chat/completions", self.base)).send_json(&request);
        let mut response = response.context("the request for an answer failed")?;
        let _: Value = response.body_mut().read_json()?;
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut response = self.agent.get(format!("{}{path}", self.base)).call()?;
        Ok(response.body_mut().read_json()?)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let workers = self.workers().unwrap_or_default();
        // Should it be gone already, there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Workers end with their gateway. The next measurement should not meet them.
        let deadline = Instant::now() + TIMEOUT;
        let alive = |pid: &u32| {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            pid.is_some_and(|pid| test_kill_process(pid).is_ok())
        };
        while workers.iter().any(alive) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Every number called `key` in `value`, wherever it is.
fn collect(value: &Value, key: &str, found: &mut Vec<u64>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_u64));
            fields.values().for_each(|field| collect(field, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, key, found)),
        _ => {}
    }
}
