//! What a gateway says about itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::Client;

/// A worker in `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Worker {
    /// `ready`, or another state.
    pub state: String,
    /// Live streams on it.
    pub streams: u64,
    /// Its process, once it serves.
    pub pid: Option<u32>,
    /// Sequences that take part in steps.
    #[serde(default)]
    pub running: u64,
    /// Sequences whose client does not read.
    #[serde(default)]
    pub paused: u64,
    /// Sequences that wait for a place.
    #[serde(default)]
    pub waiting: u64,
    /// Tokens whose keys and values it holds.
    #[serde(default)]
    pub kv_tokens: u64,
    /// What it has in memory.
    #[serde(default)]
    pub memory: WorkerMemory,
}

/// What a worker says that it has in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct WorkerMemory {
    /// Keys and values that are held.
    pub kv: u64,
    /// Most that may be.
    pub kv_limit: u64,
    /// Those that are kept for later requests.
    pub kept_prefixes: u64,
    /// MLX's arrays.
    pub mlx_active: u64,
    /// What MLX keeps of freed memory.
    pub mlx_cache: u64,
}

/// What a gateway and its workers hold of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Streams that have a permit.
    pub permits: u64,
    /// Streams on links.
    pub streams: u64,
    /// Sequences in workers, in whichever state.
    pub sequences: u64,
    /// Tokens whose keys and values workers hold.
    pub kv_tokens: u64,
}

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// The workers of `/readyz`.
///
/// # Errors
/// The gateway doesn't answer, or with something else.
pub async fn workers(client: &Client) -> Result<Vec<Worker>> {
    let mut state: Value = serde_json::from_str(&client.get("/readyz").await?).context("/readyz")?;
    serde_json::from_value(state["workers"].take()).context("the workers in /readyz")
}

/// Process ids of the workers that can answer.
///
/// # Errors
/// As of [`workers`].
pub async fn ready_pids(client: &Client) -> Result<Vec<u32>> {
    let ready = workers(client).await?.into_iter().filter(|worker| worker.state == "ready");
    Ok(ready.filter_map(|worker| worker.pid).collect())
}

/// The sum of a metric's values, over all labels; `None` if it has none.
///
/// # Errors
/// The gateway doesn't answer.
pub async fn metric(client: &Client, name: &str) -> Result<Option<f64>> {
    Ok(sum(&client.get("/metrics").await?, name))
}

/// What is held now.
///
/// # Errors
/// The gateway doesn't answer.
pub async fn held(client: &Client) -> Result<Held> {
    let permits = permits(&client.get("/metrics").await?).context("no metric counts admitted requests")?;
    let workers = workers(client).await?;
    let total = |value: fn(&Worker) -> u64| workers.iter().map(value).sum();
    Ok(Held {
        permits,
        streams: total(|worker| worker.streams),
        sequences: total(|worker| worker.running + worker.paused + worker.waiting),
        kv_tokens: total(|worker| worker.kv_tokens),
    })
}

/// Waits until nothing is held, but at most `longest`, and returns what still is.
///
/// # Errors
/// The gateway doesn't answer.
pub async fn held_after(client: &Client, longest: Duration) -> Result<Held> {
    let deadline = Instant::now() + longest;
    loop {
        let held = held(client).await?;
        if held == Held::default() || Instant::now() > deadline {
            return Ok(held);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Admitted requests. The metric has one of these names, depending on the gateway's version; before the first request
/// there is only the last.
fn permits(metrics: &str) -> Option<u64> {
    ["kr_requests_running", "kr_streams_open", "vllm:num_requests_running"]
        .iter()
        .find_map(|name| sum(metrics, name))
        .map(|sum| sum as u64)
}

fn sum(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            // A label's value may hold a brace, too.
            Some(labels) => labels.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    text.lines().filter_map(value).reduce(|total, value| total + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_is() {
        let text = "# TYPE kr_a counter\nkr_a_total{model=\"m} 7\",worker=\"0\"} 2\nkr_a_total{model=\"n\"} 3\n\
                    kr_a 100\nkr_a_total_more 50\nkr_b 1.5\n# EOF\n";
        assert_eq!(sum(text, "kr_a_total"), Some(5.0));
        assert_eq!(sum(text, "kr_b"), Some(1.5));
        assert_eq!(sum(text, "kr_c"), None);
    }

    #[test]
    fn workers_that_do_not_serve_yet_have_no_process() -> Result<()> {
        let ready =
            r#"{"model":"m","worker":0,"state":"ready","streams":2,"pid":7,"running":1,"kv_tokens":9}"#;
        let worker: Worker = serde_json::from_str(ready)?;
        assert_eq!((worker.pid, worker.running, worker.paused, worker.kv_tokens), (Some(7), 1, 0, 9));
        let worker: Worker =
            serde_json::from_str(r#"{"model":"m","worker":1,"state":"loading","streams":0}"#)?;
        assert_eq!((worker.pid, worker.state.as_str()), (None, "loading"));
        Ok(())
    }
}
