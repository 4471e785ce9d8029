//! What is measured of a running gateway.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use test_support::{Options, Server};

use crate::binaries::Binaries;

/// Longest time for workers to load.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Starts a gateway that serves `model`, and waits until a first worker can answer.
pub(super) fn start(binaries: &Binaries, store: &Path, model: &str, workers: u32) -> Result<Server> {
    let options = Options {
        workers,
        gateway: Some(binaries.gateway.clone()),
        model: model.to_owned(),
        store: Some(store.to_owned()),
        environment: vec![("RUST_LOG", "warn".to_owned())],
        ..Options::default()
    };
    Ok(Server::try_start(&options)?)
}

/// What the workers reported as `load_micros`: from a worker's start until its weights could be used.
pub(super) fn load_times(server: &Server) -> Vec<Duration> {
    let mut times = Vec::new();
    collect(&server.client.get("/readyz").json, "load_micros", &mut times);
    times.into_iter().map(Duration::from_micros).collect()
}

/// Waits until `count` workers have loaded.
pub(super) fn wait_for_workers(server: &Server, count: usize) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while load_times(server).len() < count {
        if Instant::now() > deadline {
            bail!("{count} workers were to load, and did not within {TIMEOUT:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Has `model` answer with `tokens` tokens.
pub(super) fn answer(server: &Server, model: &str, tokens: u32) -> Result<()> {
    let request = json!({
        "model": model, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        "messages": [{ "role": "user", "content": "w1 w2 w3" }],
    });
    let answer = server.client.post("/v1/chat/completions", &request);
    ensure!(answer.status == 200, "the request for an answer failed: {}", answer.json);
    Ok(())
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
