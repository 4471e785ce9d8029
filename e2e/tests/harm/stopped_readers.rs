//! Clients that stop reading, or leave, take nothing from the others and leave nothing behind.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use test_support::{Options, Server, SlowReader, import, tiny_config, write_model};

use crate::{POLL, config, worker};

/// Their events are more than the buffers of a connection hold: twice the gateway's 256 KiB on Linux.
const TOKENS: u32 = 8_000;

/// For buffers to fill, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

const PATH: &str = "/v1/completions";

/// A server of a tiny model.
struct World {
    server: Server,
    _files: (NamedTempFile, TempDir),
}

impl World {
    fn new(settings: &str) -> Self {
        let settings = config(settings);
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
        Self { server, _files: (settings, folder) }
    }

    /// Waits until the worker says what is awaited.
    fn wait_until(&self, what: &str, is_awaited: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = worker(&self.server);
            if is_awaited(&now) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {now}\n{}", self.server.log());
            thread::sleep(POLL);
        }
    }

    /// Waits until nothing is left of any request.
    fn wait_until_empty(&self) {
        self.wait_until("nothing is left", |now| {
            ["streams", "running", "paused", "waiting", "kv_tokens"].iter().all(|name| now[name] == 0)
        });
    }
}

fn request(prompt: &str, tokens: u32) -> Value {
    json!({
        "model": "tiny", "prompt": prompt, "max_tokens": tokens, "stream": true, "ignore_eos": true, "temperature": 0,
    })
}

/// The text of a stream, which came to its end.
fn text(events: &[String]) -> String {
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    chunks.map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn readers_that_stop_get_their_whole_text_and_the_others_are_served_meanwhile() {
    const STOPPED: usize = 2;
    let world = World::new("stream_registry: {credit_chunks: 4}\n");
    let client = &world.server.client;
    let expected = text(&client.stream(PATH, &request("w2", TOKENS)).rest());
    let stopped: Vec<_> =
        (0..STOPPED).map(|_| SlowReader::post(client, PATH, &request("w2", TOKENS))).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let answer = text(&client.stream(PATH, &request("w2", TOKENS / 8)).rest());
                assert!(!answer.is_empty() && expected.starts_with(&answer));
            });
        }
    });
    world.wait_until("the readers are paused", |now| now["paused"] == STOPPED && now["running"] == 0);
    for reader in stopped {
        assert!(text(&reader.rest()) == expected, "the text is what it is without a pause");
    }
    world.wait_until_empty();
}

#[test]
fn a_reader_that_stops_for_too_long_is_told_so_and_leaves_nothing_behind() {
    let world = World::new(
        "server: {slow_consumer_timeout_ms: 5000}\n\
         stream_registry: {credit_chunks: 4, adaptive_limits: {max_streams: 1}, max_waiting: 0}\n",
    );
    let client = &world.server.client;
    let reader = SlowReader::post(client, PATH, &request("w2", TOKENS));
    world.wait_until("it is paused", |now| now["paused"] == 1);
    assert_eq!(client.post(PATH, &request("w2", 1)).status, 429, "it has the only place");
    world.wait_until_empty();
    // The connection still takes what was sent, and the reason.
    let events = reader.rest();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "slow_consumer", "{last}");
    let answer = text(&client.stream(PATH, &request("w2", 8)).rest());
    assert!(!answer.is_empty(), "its place is free");
}

#[test]
fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    const CLIENTS: u64 = 8;
    const REQUESTS: u64 = 60;
    let world = World::new("stream_registry: {credit_chunks: 4, adaptive_limits: {max_streams: 5}}\n");
    let client = &world.server.client;
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut random = number;
                for _ in 0..REQUESTS {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let read = (random >> 40) % 20;
                    let mut stream = client.stream(PATH, &request("w2 w3", 4000));
                    for _ in 0..read {
                        assert!(stream.next_data().is_some());
                    }
                }
            });
        }
    });
    world.wait_until_empty();
    assert!(!text(&client.stream(PATH, &request("w2", 8)).rest()).is_empty());
}
