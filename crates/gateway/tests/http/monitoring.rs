//! What monitors see: names and values of metrics, and the dashboard and alerts that are made for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use gateway::metrics::MetricDescription;
use protocol::message::{
    DiskPrefixes, Failure, FailureKind, FinishReason, Heartbeat, Report, StepTime, StreamEventKind,
    Submission, TraceContext, Verified, WorkerMemory,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::*;

/// A gateway that every metric has something to say about.
async fn busy() -> (TestEnv, FakeWorker) {
    let settings = "stream_registry: {adaptive_limits: {max_streams: 1}, max_waiting: 1}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let whole = env.begin(CHAT, &chat(json!({})));
    let id = worker.generate().await.id;
    worker.admit(id).await;
    worker.events(id, vec![chunk("a")]).await;
    worker.events(id, vec![chunk("b"), finished(FinishReason::Stop)]).await;
    assert_eq!(soon("an answer", whole).await.unwrap().status().as_u16(), 200);

    let (cancelled, response) = env.begin_stream(&mut worker).await;
    drop(response);
    assert_eq!(worker.next().await, Submission::Cancel(cancelled));

    let failed = env.begin(CHAT, &chat(json!({})));
    let id = worker.generate().await.id;
    let failure = Failure { kind: FailureKind::Internal, param: None, message: "broke".into() };
    worker.events(id, vec![StreamEventKind::Failed(failure)]).await;
    assert_eq!(soon("an answer", failed).await.unwrap().status().as_u16(), 500);

    let memory = WorkerMemory { weights: 7000, kv: 25, kv_limit: 100, ..WorkerMemory::default() };
    let report = Heartbeat {
        step: 9,
        runnable: 1,
        kv_tokens: 25,
        kv_capacity: 100,
        memory_bytes: 9000,
        memory,
        time: StepTime { evaluate_micros: 1_500_000, idle_micros: 250_000, ..StepTime::default() },
        preemptions: 3,
        disk: DiskPrefixes { reads: 2, tokens: 256, bytes: 4096 },
        ..Heartbeat::default()
    };
    // Twice, so that there is a time between the two.
    for _ in 0..2 {
        worker.send(&Report::Heartbeat(report)).await;
    }
    worker.send(&Report::Verified(Verified { bytes: 1, micros: 1 })).await;
    until("its heartbeat", || env.app.registry.workers()[0].work.as_ref().is_some_and(|w| w.step == 9)).await;
    (env, worker)
}

/// One request that runs and one that waits, behind which a third is turned away.
async fn full(env: &TestEnv, worker: &mut FakeWorker) -> [JoinHandle<axum::response::Response>; 2] {
    let running = env.begin(CHAT, &chat(json!({})));
    let id = worker.generate().await.id;
    worker.admit(id).await;
    let waiting = env.begin(CHAT, &chat(json!({})));
    until("a full queue", || env.app.admission.metrics().queue_length.get() == 1).await;
    assert_eq!(env.post(CHAT, &chat(json!({}))).await.status.as_u16(), 429);
    [running, waiting]
}

#[tokio::test]
async fn requests_are_counted_by_how_they_end() {
    let (env, mut worker) = busy().await;
    let _held = full(&env, &mut worker).await;
    for (line, value) in [
        ("kr_request_success_total{model=\"tiny\",finished_reason=\"stop\"}", "1"),
        ("kr_cancellations_total{model=\"tiny\"}", "1"),
        ("kr_request_errors_total{code=\"worker_error\"}", "1"),
        ("kr_request_errors_total{code=\"queue_full\"}", "1"),
        ("kr_admission_rejections_total{reason=\"queue_full\"}", "1"),
        ("kr_requests_running{model=\"tiny\"}", "1"),
        ("kr_requests_waiting{model=\"tiny\"}", "1"),
        ("kr_generation_tokens_total{model=\"tiny\"}", "2"),
        ("kr_prompt_tokens_total{model=\"tiny\"}", "9"),
        ("kr_e2e_request_latency_seconds_count{model=\"tiny\"}", "1"),
        ("kr_inter_token_latency_seconds_count{model=\"tiny\"}", "1"),
        ("kr_kv_cache_usage_ratio{model=\"tiny\",worker=\"0\"}", "0.25"),
        ("kr_worker_memory_bytes{model=\"tiny\",worker=\"0\",kind=\"weights\"}", "7000"),
        ("kr_worker_memory_bytes{model=\"tiny\",worker=\"0\",kind=\"kv\"}", "25"),
        ("kr_worker_memory_bytes{model=\"tiny\",worker=\"0\",kind=\"kv_limit\"}", "100"),
        ("kr_worker_memory_bytes{model=\"tiny\",worker=\"0\",kind=\"resident\"}", "9000"),
        ("kr_worker_step_seconds_total{model=\"tiny\",worker=\"0\",stage=\"evaluate\"}", "1.5"),
        ("kr_worker_step_seconds_total{model=\"tiny\",worker=\"0\",stage=\"idle\"}", "0.25"),
        ("kr_worker_preemptions_total{model=\"tiny\",worker=\"0\"}", "3"),
        ("kr_prefix_disk_reads_total{model=\"tiny\",worker=\"0\"}", "2"),
        ("kr_prefix_disk_tokens_total{model=\"tiny\",worker=\"0\"}", "256"),
        ("kr_prefix_disk_bytes{model=\"tiny\",worker=\"0\"}", "4096"),
        ("kr_worker_sequences{model=\"tiny\",worker=\"0\",state=\"running\"}", "1"),
    ] {
        assert_eq!(env.metric(line).await, value, "{line}");
    }
    let worker = env.get("/readyz").await.json()["workers"][0].take();
    assert_eq!(
        (&worker["time"]["evaluate_micros"], &worker["time"]["emit_micros"]),
        (&json!(1_500_000), &json!(0))
    );
    let bytes: u64 = env
        .metric("kr_ipc_bytes_total{model=\"tiny\",worker=\"0\",direction=\"to_worker\"}")
        .await
        .parse()
        .unwrap();
    assert!(bytes > 100, "{bytes}");
}

#[tokio::test]
async fn load_balancers_find_their_three_gauges_from_the_start() {
    let env = TestEnv::start("");
    for name in ["vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"] {
        assert!(matches!(&*env.metric(&format!("{name} ")).await, "0" | "0.0"), "{name}");
    }
    let (env, mut worker) = busy().await;
    let _held = full(&env, &mut worker).await;
    let report = Heartbeat { step: 10, waiting: 1, kv_tokens: 50, kv_capacity: 100, ..Heartbeat::default() };
    worker.send(&Report::Heartbeat(report)).await;
    until("its heartbeat", || env.app.registry.workers()[0].work.as_ref().is_some_and(|w| w.step == 10))
        .await;
    assert_eq!(env.metric("vllm:num_requests_waiting ").await, "2", "one in the gateway, one in the worker");
    assert_eq!(env.metric("vllm:num_requests_running ").await, "0");
    assert_eq!(env.metric("vllm:kv_cache_usage_perc ").await, "0.5");
}

#[tokio::test]
async fn a_dead_worker_holds_nothing() {
    let (env, worker) = busy().await;
    worker.die();
    let _next = env.next_worker().await;
    assert_eq!(env.metric("kr_kv_cache_usage_ratio{model=\"tiny\",worker=\"0\"}").await, "0.0");
    assert_eq!(env.metric("kr_worker_sequences{model=\"tiny\",worker=\"0\",state=\"running\"}").await, "0");
}

#[tokio::test]
async fn a_workers_part_of_a_trace_belongs_to_the_clients_and_its_log_knows_the_request() {
    let (env, mut worker) = TestEnv::ready("").await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = |headers: &[(&str, &str)]| {
        let mut request = post(CHAT, &chat(json!({})));
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        request
    };
    let _traced = env.begin_request(request(&[("traceparent", traceparent), ("x-request-id", "client-7")]));
    let generate = worker.generate().await;
    assert_eq!(generate.correlation_id.as_deref(), Some("client-7"));
    let TraceContext { trace_id, sampled, .. } = generate.trace.unwrap();
    assert_eq!((trace_id[0], trace_id[15], sampled), (0x4b, 0x36, true));
    // Nobody exports traces here, so none begins with a request that brings none.
    let _plain = env.begin_request(request(&[("traceparent", "nonsense")]));
    let generate = worker.generate().await;
    assert!(generate.correlation_id.unwrap().starts_with("req_") && generate.trace.is_none());
}

/// Queries of the dashboard and the alerts, with where they stand.
fn queries() -> Vec<(String, String)> {
    let file = |name: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/grafana").join(name)
    };
    let read = |name: &str| fs::read_to_string(file(name)).unwrap();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let alerts: Value = serde_saphyr::from_str(&read("alerts.yml")).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        let title = panel["title"].as_str().unwrap();
        found.extend(targets.iter().map(|it| (title.to_owned(), it["expr"].as_str().unwrap().to_owned())));
    }
    for variable in
        dashboard["templating"]["list"].as_array().unwrap().iter().filter(|it| it["type"] == "query")
    {
        let (name, query) = (variable["name"].as_str().unwrap(), variable["definition"].as_str().unwrap());
        // `label_values(metric, label)`, which stands for these values.
        let (metric, label) =
            query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap().split_once(", ").unwrap();
        found.push((format!("${name}"), format!("sum by ({label}) ({metric})")));
    }
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(
            rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(),
            "{name}"
        );
        found.push((name.to_owned(), rule["expr"].as_str().unwrap().to_owned()));
    }
    found
}

/// The words of a query, without what is in quotes, and the character before and after each.
fn words(query: &str) -> Vec<(String, Option<char>)> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut in_quotes = false;
    for c in query.chars().chain([' ']) {
        in_quotes ^= c == '"';
        if !in_quotes && (c.is_ascii_alphanumeric() || "_:$.".contains(c)) {
            word.push(c);
        } else if !word.is_empty() {
            words.push((std::mem::take(&mut word), Some(c)));
        }
    }
    words
}

/// Labels that Prometheus adds to what it scrapes.
const OF_SCRAPE: [&str; 2] = ["instance", "job"];

/// Names in queries that are not ours.
const OF_PROMQL: [&str; 12] = [
    "sum",
    "max",
    "by",
    "rate",
    "increase",
    "histogram_quantile",
    "le",
    "and",
    "or",
    "unless",
    "without",
    "on",
];

#[tokio::test]
async fn every_query_of_dashboard_and_alerts_asks_for_what_is_there() {
    let (env, mut worker) = busy().await;
    let _held = full(&env, &mut worker).await;
    let scrape = Scrape::read(&env.get("/metrics").await.text, env.app.exposition.catalogue());
    let queries = queries();
    assert!(queries.len() > 55, "{} queries", queries.len());
    let mut asked = BTreeSet::new();
    for (place, query) in &queries {
        asked.extend(scrape.check(query).unwrap_or_else(|problem| panic!("{place}: {problem}\n{query}")));
    }
    assert!(asked.len() > 30, "{asked:?}");
}

#[test]
fn a_query_for_what_is_not_there_is_found() {
    let description = |name, kind| MetricDescription { name, kind, help: "", is_foreign: false };
    let catalogue = [description("frames", "counter"), description("time_seconds", "histogram")];
    let text = "kr_frames_total{model=\"m\"} 3\nkr_time_seconds_bucket{le=\"1.0\"} 1\n";
    let scrape = Scrape::read(text, &catalogue);
    for good in [
        "sum by (model) (rate(kr_frames_total{model=~\"x y\", job=\"j\"}[5m]))",
        "kr_time_seconds_bucket{le=\"1\"}",
    ] {
        assert!(scrape.check(good).is_ok(), "{good}");
    }
    for bad in [
        "kr_frames",
        "kr_nothing_total",
        "kr_time_seconds",
        "kr_time_seconds_total",
        "other_metric",
        "sum by (worker) (kr_frames_total)",
        "kr_frames_total{worker=\"0\"}",
        "kr_time_seconds_sum",
        "sum(1)",
    ] {
        assert!(scrape.check(bad).is_err(), "{bad}");
    }
}

/// The lines of `/metrics`, and what they may be asked for.
struct Scrape {
    /// Labels of each line's name.
    labels: BTreeMap<String, BTreeSet<String>>,
    /// What the names of lines belong to.
    metrics: BTreeMap<String, String>,
}

impl Scrape {
    fn read(text: &str, catalogue: &[MetricDescription]) -> Self {
        let mut labels = BTreeMap::<_, BTreeSet<_>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let found = labels.entry(name.to_owned()).or_default();
            let inside = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            found.extend(
                words(inside).into_iter().filter(|(_, next)| *next == Some('=')).map(|(label, _)| label),
            );
        }
        let lines = catalogue.iter().flat_map(|it| {
            let suffixes: &[&str] =
                if it.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            suffixes.iter().map(|suffix| (format!("{}{suffix}", it.public_name()), it.public_name()))
        });
        Self { labels, metrics: lines.collect() }
    }

    /// The metrics that a query asks for.
    fn check(&self, query: &str) -> Result<BTreeSet<String>, String> {
        let mut asked = BTreeSet::new();
        let mut known: BTreeSet<&str> = OF_SCRAPE.into_iter().collect();
        let words = words(query);
        for (word, _) in words.iter().filter(|(word, _)| word.contains(['_', ':'])) {
            match (self.metrics.get(word), self.labels.get(word)) {
                (Some(metric), Some(labels)) => {
                    asked.insert(metric.clone());
                    known.extend(labels.iter().map(String::as_str));
                }
                (Some(_), None) => return Err(format!("`{word}` has no line in the scrape")),
                (None, _) => {}
            }
        }
        for (word, _) in &words {
            let is_number = word.starts_with(|c: char| c.is_ascii_digit() || c == '$' || c == '.');
            let is_known = is_number
                || self.metrics.contains_key(word)
                || OF_PROMQL.contains(&word.as_str())
                || known.contains(word.as_str());
            if !is_known {
                return Err(format!("`{word}` is neither a metric nor a label of those that are asked for"));
            }
        }
        if asked.is_empty() { Err("it asks for no metric".into()) } else { Ok(asked) }
    }
}
