//! A request's trace and its log lines, from the gateway to the step of the engine.

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use test_support::{ExportedSpan, FakeCollector, Options, Server, chat};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const OF_GATEWAY: [&str; 8] = ["accept", "provide", "admit", "route", "batch", "ship", "deliver", "respond"];
const OF_WORKER: [&str; 5] = ["receive", "prepare", "schedule", "step", "emit"];

/// A server that exports to `collector` and logs JSON.
fn start(folder: &std::path::Path, collector: &FakeCollector) -> Server {
    let file = folder.join("runtime.yaml");
    let settings = format!(
        "telemetry: {{log_format: json, access_log: true, otlp_endpoint: \"{}\", trace_sample_percent: 0}}\n",
        collector.endpoint()
    );
    fs::write(&file, settings).unwrap();
    let arguments = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
    Server::start_with(&Options { arguments, ..Options::default() })
}

fn names<'a>(spans: impl IntoIterator<Item = &'a ExportedSpan>) -> BTreeSet<&'a str> {
    spans.into_iter().map(|span| span.name.as_str()).collect()
}

#[test]
fn one_trace_and_one_id_from_http_to_the_step() {
    let (folder, collector) = (tempfile::tempdir().unwrap(), FakeCollector::start());
    let mut server = start(folder.path(), &collector);
    let plain = server.client.post("/v1/chat/completions", &chat("Hello", 2));
    let client =
        server.client.with_header("traceparent", TRACEPARENT).with_header("x-request-id", "client-7");
    let mut request = chat("What is the capital of France?", 16);
    request["stream"] = true.into();
    let traced = client.stream("/v1/chat/completions", &request);
    assert_eq!((plain.status, traced.status), (200, 200));
    assert_eq!(traced.rest().last().unwrap(), "[DONE]");

    let spans = collector.spans(&[OF_GATEWAY.as_slice(), OF_WORKER.as_slice()].concat());
    let trace: Vec<u8> =
        (0..16).map(|byte| u8::from_str_radix(&TRACE[2 * byte..2 * byte + 2], 16).unwrap()).collect();
    assert!(spans.iter().all(|span| span.trace_id == trace), "only the traced request is sampled: {spans:?}");
    let (gateway, worker): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.service == "kr-gateway");
    assert!(worker.iter().all(|span| span.service == "kr-worker"));
    assert_eq!(names(gateway.iter().copied()), BTreeSet::from(OF_GATEWAY));
    assert_eq!(names(worker.iter().copied()), BTreeSet::from(OF_WORKER));
    assert_eq!(spans.len(), OF_GATEWAY.len() + OF_WORKER.len(), "each stage is one span: {spans:?}");

    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let accept = find("accept");
    assert_eq!(accept.parent_id, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
    for span in spans.iter().filter(|span| !matches!(&*span.name, "accept" | "emit")) {
        assert_eq!(span.parent_id, accept.span_id, "{span:?}");
    }
    assert_eq!(find("emit").parent_id, find("step").span_id);

    test_support::process::terminate(server.pid());
    assert!(server.wait().success());
    let log = server.log();
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| !line.starts_with("try: "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let logged = |message: &'static str| lines.iter().filter(move |line| line["message"] == message);
    let answered = logged("answered").find(|line| line["spans"][0]["request_id"] == "client-7").unwrap();
    assert_eq!((&answered["status"], &answered["target"]), (&200.into(), &"access".into()));
    assert_eq!(answered["spans"][0]["trace_id"], TRACE);
    assert!(answered["bytes"].as_u64().unwrap() > 100 && answered["complete"] == true, "{answered}");
    assert!(logged("ready").next().is_some(), "the worker logs JSON as well: {log}");
}
