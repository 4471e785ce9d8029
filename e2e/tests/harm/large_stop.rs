//! Requests with megabytes of stop strings or names harm nobody.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use test_support::{MODEL, Options, Server, StreamAnswer};

use crate::{POLL, config, worker};

/// As large as a body may be, by default.
const LARGE: usize = (8 << 20) - 512;

/// Together more than a batch can be.
const ATTACKS: usize = 12;

/// For all of them to be read and queued.
const PATIENCE: Duration = Duration::from_secs(240);

/// A stream that goes on until it is dropped, or to its end.
fn hold(server: &Server, max_tokens: u32) -> StreamAnswer {
    let request = json!({
        "model": MODEL, "prompt": "One, two,", "max_tokens": max_tokens, "stream": true, "ignore_eos": true,
    });
    let mut stream = server.client.stream("/v1/completions", &request);
    assert_eq!(stream.status, 200);
    assert!(stream.next_data().is_some());
    stream
}

fn queued(server: &Server) -> usize {
    let metrics = server.client.get("/metrics").json;
    // The line appears with the first request that waits.
    let line = metrics.as_str().unwrap().lines().find(|line| line.starts_with("kr_requests_waiting{"));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// All attackers get their turn in the same moment: when those leave who held all places.
fn attack(path: &str, request: &Value) {
    let settings = format!(
        "stream_registry:\n  adaptive_limits:\n    min_streams: 1\n    max_streams: {}\n  wait_timeout_ms: 600000\n",
        ATTACKS + 1
    );
    let settings = config(&settings);
    let server = Server::start_with(&Options {
        arguments: vec!["--config".into(), settings.path().to_str().unwrap().into()],
        ..Options::default()
    });
    let pid = worker(&server)["pid"].clone();
    let held: Vec<_> = (0..ATTACKS).map(|_| hold(&server, 4000)).collect();
    let victim = hold(&server, 200);
    let (request, answered) = (request.to_string(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..ATTACKS {
            scope.spawn(|| {
                let answer = server.client.post_bytes(path, request.as_bytes());
                answered.fetch_add(1, Ordering::Relaxed);
                // Whether it is served or refused: never because a worker died of it.
                assert_ne!(answer.json["error"]["code"], "worker_lost", "{}", answer.json);
            });
        }
        // Some may be refused before they would have to wait.
        let deadline = Instant::now() + PATIENCE;
        while queued(&server) + answered.load(Ordering::Relaxed) < ATTACKS {
            assert!(Instant::now() < deadline, "{} of {ATTACKS} wait", queued(&server));
            thread::sleep(POLL);
        }
        drop(held);
        let events = victim.rest();
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{}", server.log());
        assert!(!events.iter().any(|event| event.starts_with("{\"error\"")), "{events:?}");
    });
    assert_eq!(worker(&server)["pid"], pid, "{}", server.log());
    // It serves as before.
    drop(hold(&server, 3));
}

#[test]
fn large_stop_strings_harm_nobody() {
    let request = json!({"model": MODEL, "prompt": "a", "max_tokens": 1, "stop": ["x".repeat(LARGE)]});
    attack("/v1/completions", &request);
}

#[test]
fn large_names_harm_nobody() {
    let message = json!({"role": "user", "content": "a", "name": "x".repeat(LARGE)});
    attack("/v1/chat/completions", &json!({"model": MODEL, "max_tokens": 1, "messages": [message]}));
}
