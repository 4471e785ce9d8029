//! Several workers: one dies, all share the weights.

#![allow(clippy::unwrap_used)]

#[path = "workers/adapters.rs"]
mod adapters;
#[path = "workers/channels.rs"]
mod channels;
#[path = "workers/drafts.rs"]
mod drafts;
#[path = "workers/exact.rs"]
mod exact;
#[path = "workers/hybrid.rs"]
mod hybrid;
#[path = "workers/prefixes.rs"]
mod prefixes;
#[path = "workers/traces.rs"]
mod traces;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use test_support::{
    MODEL, Options, Server, SlowReader, chat,
    process::{is_alive, kill, resume, suspend, wait_for_end},
};

const CAPITAL: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.";
const KEY: &str = "an-admin-key-for-the-tests";

fn ready_workers(state: &Value) -> usize {
    let workers = state["workers"].as_array().unwrap();
    workers.iter().filter(|worker| worker["state"] == "ready").count()
}

fn has_worker(state: &Value, pid: u32) -> bool {
    state["workers"].as_array().unwrap().iter().any(|worker| worker["pid"] == pid)
}

/// A file with this limit of a worker's silence.
fn with_heartbeat_timeout(timeout: Duration) -> tempfile::NamedTempFile {
    let mut settings = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    // The limit of a step stays long: how fast the model computes is not what is tested.
    write!(settings, "workers:\n  heartbeat_timeout_ms: {}\n", timeout.as_millis()).unwrap();
    settings
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
        !has_worker(state, before[0])
    });
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
    two_ready(&server);
    let after = server.workers();
    assert_eq!(after.len(), 2);
    assert!(after.contains(&before[1]) && !after.contains(&before[0]), "{before:?} {after:?}");
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
}

/// What a stream's events have as text, and its reason to finish. Fails unless it ended once, and by itself.
fn told(events: &[String]) -> (String, String) {
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]", "{events:?}");
    let chunks: Vec<Value> = chunks.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let choices = || chunks.iter().map(|chunk| &chunk["choices"][0]);
    let text = choices().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    let reasons: Vec<_> = choices().filter_map(|choice| choice["finish_reason"].as_str()).collect();
    let [reason] = reasons[..] else { panic!("it finished {reasons:?}: {events:?}") };
    (text, reason.to_owned())
}

#[test]
fn a_stream_whose_only_worker_is_killed_has_the_text_that_it_would_have_had() {
    let server = Server::start();
    let mut greedy = chat("Count from one to five hundred in words.", 150);
    greedy["stream"] = true.into();
    let mut seeded = greedy.clone();
    for (field, value) in [("temperature", 0.9), ("presence_penalty", 0.5), ("top_p", 0.9)] {
        seeded[field] = value.into();
    }
    seeded["seed"] = 7.into();
    let post = |request: &Value| server.client.stream("/v1/chat/completions", request);
    let undisturbed = [&greedy, &seeded].map(|request| told(&post(request).rest()));

    let mut streams = [&greedy, &seeded].map(post);
    let mut begun: [Vec<String>; 2] = Default::default();
    // Killed twice: the second process continues what the first did not generate.
    for _ in 0..2 {
        for (stream, begun) in streams.iter_mut().zip(&mut begun) {
            begun.extend((0..8).map(|_| stream.next_data().unwrap()));
        }
        let worker = server.workers()[0];
        kill(worker);
        server.wait_until("another process", |_, state| {
            ready_workers(state) == 1 && state["workers"][0]["pid"] != worker
        });
    }
    let disturbed = streams.map(|stream| stream.rest());
    let whole = [0, 1].map(|i| told(&[&begun[i][..], &disturbed[i][..]].concat()));
    assert_eq!(whole, undisturbed);
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
    let settings = with_heartbeat_timeout(TIMEOUT);
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

#[test]
fn a_suspended_worker_is_noticed_within_the_limit_and_replaced() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let settings = with_heartbeat_timeout(TIMEOUT);
    let server = Server::start_with(&Options {
        arguments: vec!["--config".into(), settings.path().to_str().unwrap().into()],
        ..Options::default()
    });
    let worker = server.workers()[0];
    suspend(worker);
    let began = Instant::now();
    server.wait_until("it is given up", |_, state| !has_worker(state, worker));
    // What a busy machine adds is less than the limit itself.
    assert!(began.elapsed() < 2 * TIMEOUT, "{:?}", began.elapsed());
    server.wait_until("it is back", |status, _| status == 200);
    assert!(!is_alive(worker));
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
    assert!(server.log().contains("it froze: nothing came from it"), "{}", server.log());
}

#[test]
fn workers_are_restarted_and_models_reloaded_without_a_crash() {
    let server = Server::start_with(&Options {
        workers: 2,
        environment: vec![("KR_ADMIN_KEY", KEY.to_string())],
        ..Options::default()
    });
    two_ready(&server);
    let admin = server.client.with_key(KEY);
    let before = server.workers();
    let answer = admin.post(&format!("/admin/workers/{MODEL}/1/restart"), &json!({}));
    assert_eq!((answer.status, &answer.json["state"]), (200, &json!("ready")), "{}", answer.json);
    let after = server.workers();
    assert_eq!((after[0], after[1].into()), (before[0], answer.json["pid"].clone()));
    assert!(!is_alive(before[1]) && after[1] != before[1]);

    let answer = admin.post(&format!("/admin/models/{MODEL}/reload"), &json!({}));
    assert_eq!((answer.status, &answer.json["ready_workers"]), (200, &json!(2)), "{}", answer.json);
    let reloaded = server.workers();
    assert!(!reloaded.iter().any(|pid| after.contains(pid)), "{after:?} {reloaded:?}");
    assert_eq!(server.client.ask(CAPITAL, 16), PARIS);
    assert!(!server.log().contains("WARN"), "nothing went wrong:\n{}", server.log());
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
