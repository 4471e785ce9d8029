//! Workers that die, freeze, break the rules, or never serve.
#![allow(clippy::unwrap_used)]

mod support;

use protocol::{
    codec,
    frame::FrameKind,
    handshake::HelloAck,
    ids::RequestId,
    message::{
        Delta, Failure, FailureKind, FinishReason, Heartbeat, MAX_DELTA_TOKENS, MAX_EVENTS, ModelInfo,
        Report, StreamEvent, StreamEventKind, Submission, max_report_bytes,
    },
};
use serde_json::{Value, json};
use support::*;

const QUICK: &str =
    "workers:\n  restart_backoff_ms: 1\n  max_restart_backoff_ms: 1\n  heartbeat_timeout_ms: 60000\n";

/// Why the model that is served from the start could not be loaded.
async fn failed_start(env: TestEnv) -> String {
    soon("the end", env.loading).await.unwrap().unwrap_err().to_string()
}

fn code(event: &str) -> Value {
    serde_json::from_str::<Value>(event).unwrap()["error"]["code"].clone()
}

#[tokio::test]
async fn a_dead_worker_ends_its_streams_once_and_the_next_process_serves() {
    let (env, mut worker) = TestEnv::ready(QUICK).await;
    let (id, streamed) = env.begin_stream(&mut worker).await;
    let whole = env.begin(CHAT, &chat(json!({})));
    let preparing = worker.generate().await.id;
    worker.events(id, vec![chunk("a")]).await;
    let first = worker.hello.incarnation;
    let segment = worker.hello.segment.clone();
    assert!(!std::path::Path::new(&segment).exists(), "the segment's name is gone once both hold it");
    assert_ne!(id, preparing);
    worker.die();

    let events = Reply::read(streamed).await.events();
    let [_role, text, error] = &events[..] else { panic!("{events:?}") };
    assert!(text.contains("\"a\""), "what it had published is delivered");
    assert_eq!(code(error), "worker_lost");
    let reply = Reply::read(soon("an answer", whole).await.unwrap()).await;
    assert_eq!(reply.error(), (503, "server_error".into(), "worker_lost".into()));
    assert_eq!(reply.header("retry-after"), "2");
    until("free places", || env.app.admission.metrics().streams_open.get() == 0).await;

    let mut worker = env.next_ready_worker().await;
    assert_ne!(worker.hello.incarnation, first);
    let (id, response) = env.begin_stream(&mut worker).await;
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(response).await.events().last().unwrap(), "[DONE]");
    assert_eq!(env.metric("kr_worker_restarts_total{model=\"tiny\",worker=\"0\"}").await, "1");
}

#[tokio::test]
async fn a_frozen_worker_is_killed_and_replaced() {
    let settings = "workers:\n  restart_backoff_ms: 1\n  heartbeat_timeout_ms: 200\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let (_, response) = env.begin_stream(&mut worker).await;
    let events = Reply::read(response).await.events();
    let error = events.last().unwrap();
    assert_eq!(code(error), "worker_lost");
    assert!(error.contains("it froze"), "{error}");
    worker.closed().await;
    let old = worker.pid;
    let worker = env.next_worker().await;
    assert_ne!(worker.pid, old);
    assert!(!is_alive(old), "it was reaped before the next one was started");
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_ends_itself_and_not_the_gateway() {
    let (env, mut worker) = TestEnv::ready(QUICK).await;
    for (kind, body) in [(FrameKind::Report, &b"\xff\xff\xff"[..]), (FrameKind::Batch, b"")] {
        let (_, response) = env.begin_stream(&mut worker).await;
        worker.send_bytes(kind, body).await;
        assert_eq!(code(Reply::read(response).await.events().last().unwrap()), "worker_lost");
        worker.closed().await;
        worker = env.next_ready_worker().await;
    }
}

#[tokio::test]
async fn a_worker_that_prepares_one_prompt_forever_is_killed_and_replaced() {
    let settings =
        "workers:\n  restart_backoff_ms: 1\n  heartbeat_timeout_ms: 60000\n  step_timeout_ms: 100\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let begun = env.begin(CHAT, &chat(json!({})));
    worker.generate().await;
    for oldest_preparation_millis in [1000, 2000] {
        worker
            .send(&Report::Heartbeat(Heartbeat { oldest_preparation_millis, ..Heartbeat::default() }))
            .await;
    }
    let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
    assert_eq!(reply.error().2, "worker_lost");
    assert!(reply.text.contains("preparation"), "{}", reply.text);
    worker.closed().await;
    env.next_ready_worker().await;
}

/// A report is bounded in every dimension.
#[tokio::test]
async fn a_worker_that_sends_too_much_is_ended_and_costs_little() {
    let (env, mut worker) = TestEnv::ready(QUICK).await;
    let limit = max_report_bytes(worker.hello.ring_bytes);
    let encoded = |report: &Report| {
        let mut bytes = Vec::new();
        codec::encode(report, &mut bytes).unwrap();
        bytes
    };
    let chunk = |id, tokens| {
        let chunk = Delta { first_token: 0, text: "x".into(), tokens: vec![7; tokens].into() };
        StreamEvent { id, kind: StreamEventKind::Delta(chunk) }
    };
    type Body<'a> = &'a dyn Fn(RequestId) -> Vec<u8>;
    let long = ModelInfo { digest: "d".repeat(1 << 20), ..model_info("tiny") };
    let bodies: [(Body<'_>, &str); 4] = [
        (&|_| vec![0; limit + 1], "over the limit"),
        (
            &|id| encoded(&Report::Events(vec![chunk(id, MAX_DELTA_TOKENS + 1)])),
            "a message from it is broken",
        ),
        (&|id| encoded(&Report::Events(vec![chunk(id, 0); MAX_EVENTS + 1])), "a message from it is broken"),
        (&|_| encoded(&Report::Ready(long.clone())), "it described its model"),
    ];
    for (body, why) in bodies {
        let (id, response) = env.begin_stream(&mut worker).await;
        worker.try_send_bytes(FrameKind::Report, &body(id)).await;
        let events = Reply::read(response).await.events();
        let error = events.last().unwrap();
        assert!(code(error) == "worker_lost" && error.contains(why), "{why}: {error}");
        worker.closed().await;
        worker = env.next_ready_worker().await;
    }
}

#[tokio::test]
async fn a_start_whose_every_worker_fails_ends_with_the_last_failure() {
    let env = TestEnv::start(QUICK);
    let mut worker = env.next_worker().await;
    let message = "no artifact is named `tiny`".to_owned();
    let failure = Failure { kind: FailureKind::UnknownModel, param: None, message };
    worker.send(&Report::LoadFailed(failure)).await;
    worker.die();
    let error = failed_start(env).await;
    assert_eq!(error, "the model `tiny` could not be loaded: no artifact is named `tiny`");
}

#[tokio::test]
async fn a_refused_hello_is_a_failed_start_with_the_workers_reason() {
    let env = TestEnv::start(QUICK);
    let path = env.next_process().await.socket;
    let (socket, _hello) = FakeWorker::connect(&path).await;
    FakeWorker::answer(&socket, HelloAck::refused("I am too old")).await;
    let error = failed_start(env).await;
    assert!(error.contains("I am too old"), "{error}");
    assert!(!path.exists(), "the socket's file is removed");
}

#[tokio::test]
async fn a_worker_that_exits_before_it_connects_is_a_failed_start() {
    let env = TestEnv::start(QUICK);
    let pid = env.next_process().await.pid;
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let error = failed_start(env).await;
    assert!(error.contains("was killed by signal 9 before it connected"), "{error}");
}

#[tokio::test]
async fn requests_go_to_the_least_loaded_worker_and_survive_the_other() {
    let settings = format!("{QUICK}  count: 2\n");
    let env = TestEnv::start(&settings);
    let mut one = env.next_ready_worker().await;
    let (_, held) = env.begin_stream(&mut one).await;
    let mut two = env.next_worker().await;
    two.send(&Report::Ready(model_info("tiny"))).await;
    until("both", || env.app.registry.workers().iter().all(|s| s.state.name() == "ready")).await;
    let (id, response) = env.begin_stream(&mut two).await;
    one.die();
    assert_eq!(code(Reply::read(held).await.events().last().unwrap()), "worker_lost");
    two.events(id, vec![chunk("b"), finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(response).await.events().last().unwrap(), "[DONE]");
    assert_eq!(env.get("/readyz").await.status.as_u16(), 200);
}

#[tokio::test]
async fn draining_tells_the_worker_and_waits_for_its_exit() {
    let (env, mut worker) = TestEnv::ready(QUICK).await;
    let (registry, models, pid) = (env.app.registry.clone(), env.app.models.clone(), worker.pid);
    let drained = tokio::spawn(async move { models.drain().await });
    assert_eq!(worker.next().await, Submission::Drain);
    assert!(!registry.is_ready());
    worker.send(&Report::Drained).await;
    assert!(worker.process_lives());
    worker.die();
    soon("the end", drained).await.unwrap();
    assert!(!is_alive(pid));
}
