//! Small versions of the experiments of `cargo xtask bench gateway` and `serve`: clients that leave, that ask by halves,
//! that stop reading, that come again.
//! The workers have a trivial engine, so that the load is the gateway's alone.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use test_support::{Options, Server, binary};

use crate::config;

/// A gateway whose workers have a trivial engine.
pub(crate) struct Trivial {
    server: Server,
    _store: TempDir,
    _config: NamedTempFile,
}

/// The model's name.
const MODEL: &str = "bench";

impl Trivial {
    /// With `rate` tokens a second for each stream.
    pub(crate) fn start(workers: u32, rate: u32, settings: &str) -> Self {
        let (store, config) = (tempfile::tempdir().unwrap(), config(settings));
        let worker = binary("kr-bench-worker");
        let server = Server::start_with(&Options {
            workers,
            model: MODEL.into(),
            store: Some(store.path().to_owned()),
            arguments: vec![
                "--worker-bin".into(),
                worker.to_str().unwrap().into(),
                "--config".into(),
                config.path().to_str().unwrap().into(),
            ],
            environment: vec![("KR_BENCH_RATE", rate.to_string())],
            ..Options::default()
        });
        Self { server, _store: store, _config: config }
    }

    /// Runs an experiment. Returns its report, and whether it found everything as it should be.
    pub(crate) fn load(&self, experiment: &[&str]) -> (Value, bool) {
        let output = Command::new(binary("kr-load"))
            .args(["--address", self.server.client.address(), "--model", MODEL])
            .args(["--pid", &self.server.pid().to_string()])
            .args(experiment)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{experiment:?} printed no report; {}", output.status));
        (report, output.status.success())
    }
}

#[test]
fn of_clients_that_leave_at_random_moments_nothing_is_held() {
    let gateway = Trivial::start(2, 200, "stream_registry:\n  adaptive_limits: {max_streams: 20}\n");
    let (report, _) = gateway.load(&["cancels", "--count", "500", "--concurrency", "20", "--within", "50ms"]);
    let none = json!({"permits": 0, "streams": 0, "sequences": 0, "kv_tokens": 0});
    assert_eq!(report["held"], none, "{report}");
    assert_eq!(report["refused"], 0, "{report}");
    assert!(report["cancelled"].as_u64() > Some(100), "{report}");
    assert_eq!(report["whole_after"], report["streams_after"], "{report}");
}

#[test]
fn half_a_header_is_not_waited_for_and_others_are_served_meanwhile() {
    let gateway = Trivial::start(1, 0, "server:\n  header_timeout_ms: 1000\n");
    let (report, _) = gateway.load(&["half-open", "--connections", "100"]);
    assert_eq!((&report["opened"], &report["closed"]), (&json!(100), &json!(100)), "{report}");
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["served"].as_u64() > Some(0), "{report}");
}

#[test]
fn readers_that_stop_get_their_whole_text_later_and_the_others_meanwhile() {
    let gateway = Trivial::start(1, 200, "stream_registry:\n  credit_chunks: 8\n");
    let experiment = ["slow-readers", "--streams", "10", "--slow", "3", "--pause", "2s", "--tokens", "1500"];
    let (report, _) = gateway.load(&experiment);
    assert_eq!((&report["slow_whole"], &report["others_whole"]), (&json!(3), &json!(7)), "{report}");
    assert_eq!(report["texts"], 1, "all ask the same: {report}");
    assert!(report["rate_during"].as_f64() > Some(0.0), "{report}");
    assert!(report["behind"].as_u64() > Some(100), "{report}");
}

#[test]
fn a_constant_rate_of_requests_is_answered() {
    let gateway = Trivial::start(1, 0, "");
    let (report, _) = gateway.load(&["open-loop", "--rate", "100", "--duration", "1s", "--warm-up", "0s"]);
    assert_eq!((&report["ok"], &report["requests"]), (&json!(100), &json!(100)), "{report}");
    assert_eq!(report["latency"]["count"], 100, "{report}");
    let (report, _) = gateway.load(&["memory", "--count", "400", "--warm-up", "100", "--tokens", "4"]);
    assert_eq!((&report["ok"], &report["failed"]), (&json!(500), &json!(0)), "{report}");
}

#[test]
fn clients_come_again_and_tokens_are_counted() {
    let gateway = Trivial::start(1, 0, "");
    let experiment = ["streams", "--streams", "4", "--requests", "3", "--tokens", "8", "--usage"];
    let (report, _) = gateway.load(&experiment);
    assert_eq!((&report["streams"], &report["whole"]), (&json!(12), &json!(12)), "{report}");
    assert_eq!((&report["usage"]["answer"], &report["first_token"]["count"]), (&json!(96), &json!(12)));
    let (report, _) = gateway.load(&experiment[..7]);
    assert_eq!((&report["whole"], &report["usage"]["answer"]), (&json!(12), &json!(0)), "{report}");
}

#[test]
fn a_conversation_grows() {
    let gateway = Trivial::start(1, 0, "");
    let (report, _) = gateway.load(&["turns", "--turns", "3", "--words", "20", "--tokens", "5"]);
    let turns = report["turns"].as_array().unwrap();
    let prompts = turns.iter().map(|turn| turn["usage"]["prompt"].as_u64().unwrap());
    assert_eq!(turns.len(), 3, "{report}");
    assert!(prompts.is_sorted_by(|one, next| one < next), "{report}");
}

#[test]
fn a_stream_goes_on_while_a_long_prompt_comes() {
    let gateway = Trivial::start(1, 200, "");
    let experiment = ["newcomer", "--words", "50", "--quiet", "500ms", "--tokens", "2000"];
    let (report, _) = gateway.load(&experiment);
    assert!(report["quiet"]["count"].as_u64() > Some(10), "{report}");
    assert_eq!(report["newcomer"]["usage"]["answer"], 2, "{report}");
}
