//! Several workers: one dies, all share the weights.

#![allow(clippy::unwrap_used)]

#[path = "workers/traces.rs"]
mod traces;

use std::{io::Write, time::Duration};

use serde_json::Value;
use test_support::{
    Options, Server, SlowReader, chat,
    process::{kill, resume, suspend, wait_for_end},
};

const CAPITAL: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.";

fn ready_workers(state: &Value) -> usize {
    let workers = state["workers"].as_array().unwrap();
    workers.iter().filter(|worker| worker["state"] == "ready").count()
}

fn two_ready(server: &Server) {
    server.wait_until("both workers ready", |_, state| ready_workers(state) == 2);
}

#[test]
fn one_of_two_dies_and_comes_back() {
    let server = Server::start_with(&Options { workers: 2, ..Options::default() });
    two_ready(&server);
    let before = server.workers();
    assert_eq!(before.len(), 2);

    kill(before[0]);
    server.wait_until("the death is seen", |status, state| {
        assert_eq!(status, 200, "one worker is left: {state}");
        ready_workers(state) == 1
    });
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
    two_ready(&server);
    let after = server.workers();
    assert_eq!(after.len(), 2);
    assert!(after.contains(&before[1]) && !after.contains(&before[0]), "{before:?} {after:?}");
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
}

#[test]
fn the_only_worker_dies_in_the_middle_of_a_stream() {
    let server = Server::start();
    let mut request = chat("Count from one to five hundred in words.", 400);
    request["stream"] = true.into();
    let mut stream = server.client.stream("/v1/chat/completions", &request);
    for _ in 0..4 {
        assert!(stream.next_data().is_some());
    }
    kill(server.workers()[0]);
    let rest = stream.rest();
    let last = rest.last().unwrap();
    assert!(serde_json::from_str::<Value>(last).unwrap()["error"]["message"].is_string(), "{last}");
    assert_eq!(rest.iter().filter(|event| event.contains("\"error\"")).count(), 1, "{rest:?}");
    assert!(!rest.iter().any(|event| event == "[DONE]" || event.contains("\"stop\"")), "{rest:?}");

    server.wait_until("it is back", |status, state| {
        assert_eq!(status == 200, ready_workers(state) == 1, "readiness and states agree: {state}");
        status == 200
    });
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
}

#[test]
fn a_client_that_leaves_frees_the_worker() {
    let server = Server::start();
    let mut request = chat("Count from one to five hundred in words.", 4000);
    request["stream"] = true.into();
    request["ignore_eos"] = true.into();
    let mut stream = server.client.stream("/v1/chat/completions", &request);
    assert!(stream.next_data().is_some());
    server.wait_until("it runs", |_, state| state["workers"][0]["running"] == 1);
    drop(stream);
    server.wait_until("it is cancelled", |_, state| state["workers"][0]["running"] == 0);
}

#[test]
fn a_suspended_gateway_keeps_its_workers() {
    /// Less than the suspension, and more than a worker's heartbeat takes.
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let mut settings = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    // The limit of a step stays long: how fast the model computes is not what is tested.
    write!(settings, "workers:\n  heartbeat_timeout_ms: {}\n", TIMEOUT.as_millis()).unwrap();
    let server = Server::start_with(&Options {
        workers: 2,
        arguments: vec!["--config".into(), settings.path().to_str().unwrap().into()],
        ..Options::default()
    });
    two_ready(&server);
    let before = server.workers();
    for _ in 0..3 {
        suspend(server.pid());
        // Time is what is tested: the workers' heartbeats wait in their rings meanwhile.
        std::thread::sleep(2 * TIMEOUT);
        resume(server.pid());
        assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
        two_ready(&server);
    }
    assert_eq!(server.workers(), before, "{}", server.log());
}

/// On Linux only: other systems don't tell which pages processes share.
#[cfg(target_os = "linux")]
#[test]
fn two_workers_hold_one_copy_of_the_weights() {
    let server = Server::start_with(&Options { workers: 2, ..Options::default() });
    two_ready(&server);
    // Both have to touch their weights: while one has a stream, a question goes to the other.
    let mut request = chat(CAPITAL, 4000);
    request["stream"] = true.into();
    request["ignore_eos"] = true.into();
    let stream = SlowReader::post(&server.client, "/v1/chat/completions", &request);
    server.wait_until("a step of the stream", |_, state| {
        let workers = state["workers"].as_array().unwrap();
        workers.iter().any(|worker| worker["streams"] == 1 && worker["step"].as_u64() > Some(0))
    });
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
    drop(stream);
    let workers = server.workers();
    let blobs: Vec<_> =
        workers.iter().map(|&pid| test_support::memory::mapped(pid, "/blobs/sha256/").unwrap()).collect();
    let all: Vec<_> = workers.iter().map(|&pid| test_support::memory::mapped(pid, "").unwrap()).collect();
    eprintln!("blobs {blobs:?}\nall {all:?}");
    let copy = blobs.iter().map(|memory| memory.rss).max().unwrap();
    let shared: u64 = blobs.iter().map(|memory| memory.pss).sum();
    assert!(blobs.iter().all(|memory| memory.rss > 90_000_000), "every worker uses the weights: {blobs:?}");
    let excess = shared as f64 / copy as f64 - 1.0;
    assert!(excess.abs() < 0.05, "{shared} bytes for a copy of {copy}: {blobs:?}");
}

#[test]
fn workers_end_with_their_gateway() {
    let mut server = Server::start();
    let worker = server.workers()[0];
    kill(server.pid());
    server.wait();
    wait_for_end(worker);
}
