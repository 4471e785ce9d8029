//! A worker whose only client stopped reading is not frozen.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use test_support::{Options, Server, SlowReader, import, tiny_config, write_model};

use crate::{POLL, config, worker};

const STEP_TIMEOUT: Duration = Duration::from_millis(1500);

/// Their events are more than the buffers of a connection hold: twice the gateway's 256 KiB on Linux.
const TOKENS: u32 = 8_000;

/// For the client's buffers to fill.
const PATIENCE: Duration = Duration::from_secs(240);

fn settings() -> String {
    // Few chunks ahead of the reader: the rest of what is under way is the system's. The gateway would end the stream.
    format!(
        "server:\n  slow_consumer_timeout_ms: 3600000\nworkers:\n  step_timeout_ms: {}\n\
         stream_registry:\n  credit_chunks: 4\n",
        STEP_TIMEOUT.as_millis()
    )
}

#[test]
fn a_client_that_stops_reading_does_not_cost_the_worker_its_life() {
    let settings = config(&settings());
    let folder = tempfile::tempdir().unwrap();
    let (source, store) = (folder.path().join("source"), folder.path().join("store"));
    let mut model = tiny_config();
    model["max_position_embeddings"] = (2 * TOKENS).into();
    write_model(&source, &model);
    import(&store, &source, "tiny");
    let server = Server::start_with(&Options {
        model: "tiny".into(),
        store: Some(store),
        arguments: vec!["--config".into(), settings.path().to_str().unwrap().into()],
        ..Options::default()
    });
    let pid = worker(&server)["pid"].clone();
    let request = json!({
        "model": "tiny", "prompt": "w2", "max_tokens": TOKENS, "stream": true, "ignore_eos": true, "temperature": 0,
    });
    let reader = SlowReader::post(&server.client, "/v1/completions", &request);

    let deadline = Instant::now() + PATIENCE;
    let mut paused_since = None;
    while paused_since.is_none_or(|since: Instant| since.elapsed() < 4 * STEP_TIMEOUT) {
        let now = worker(&server);
        assert_eq!(now["pid"], pid, "{now}\n{}", server.log());
        assert!(Instant::now() < deadline, "it is never paused: {now}");
        thread::sleep(POLL);
        let paused = now["paused"] == 1 && now["running"] == 0;
        paused_since = if paused { paused_since.or_else(|| Some(Instant::now())) } else { None };
    }

    let events = reader.rest();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(!events.iter().any(|event| event.starts_with("{\"error\"")), "{:?}", events.last());
    let finish = |event: &String| {
        serde_json::from_str::<Value>(event).ok()?["choices"][0]["finish_reason"].as_str().map(str::to_owned)
    };
    assert_eq!(events.iter().filter_map(finish).collect::<Vec<_>>(), ["length"]);
    assert_eq!(worker(&server)["pid"], pid);
    let answer =
        server.client.post("/v1/completions", &json!({"model": "tiny", "prompt": "w3", "max_tokens": 4}));
    assert_eq!(answer.status, 200, "{}", answer.json);
}
