//! Workers that die, freeze, break the rules, or never serve.
#![allow(clippy::unwrap_used)]

mod support;

use axum::response::Response;
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
use test_support::process::kill;
use tokio::task::JoinHandle;

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
        let chunk = Delta { first_token: 0, text: "x".into(), tokens: vec![7; tokens] };
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

const KEY: &str = "a-key-of-24-characters-x";

/// Like [`TestEnv::start`], with an admin key.
fn administered(settings: &str) -> TestEnv {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KEY).unwrap();
    TestEnv::start(&format!("server:\n  admin_key_file: {}\n{settings}", file.path().display()))
}

/// An administrator's request that goes on while the test plays the worker.
fn order(env: &TestEnv, path: &str, body: Value) -> JoinHandle<Response> {
    let mut request = post(path, &body);
    request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    env.begin_request(request)
}

async fn reply(begun: JoinHandle<Response>) -> Reply {
    Reply::read(soon("an answer", begun).await.unwrap()).await
}

fn restarts(env: &TestEnv) -> impl Future<Output = String> {
    env.metric("kr_worker_restarts_total{model=\"tiny\",worker=\"0\"}")
}

/// It gets the order to leave, and does.
async fn leave(mut worker: FakeWorker) {
    while worker.next().await != Submission::Drain {}
    worker.send(&Report::Drained).await;
    worker.die();
}

#[tokio::test]
async fn only_the_admin_key_restarts_reloads_and_drains() {
    let (open, _worker) = TestEnv::ready(QUICK).await;
    let env = administered(QUICK);
    let _worker = env.next_ready_worker().await;
    for path in ["/admin/drain", "/admin/models/tiny/reload", "/admin/workers/tiny/0/restart"] {
        let invalid = "invalid_request_error".to_owned();
        assert_eq!(
            open.post(path, &json!({})).await.error(),
            (403, invalid.clone(), "admin_disabled".into())
        );
        assert_eq!(
            env.post(path, &json!({})).await.error(),
            (401, invalid.clone(), "missing_admin_key".into())
        );
        let refused = reply(order(&env, path, json!({"force": true}))).await;
        assert_eq!(refused.error(), (400, invalid, "invalid_value".into()));
        assert_eq!(env.get(path).await.status.as_u16(), 405);
    }
    for (path, body, status, code) in [
        ("/admin/workers/tiny/1/restart", json!({}), 404, "worker_not_found"),
        ("/admin/workers/tiny/restart", json!({}), 404, "worker_not_found"),
        ("/admin/workers/tiny/0", json!({}), 404, "unknown_url"),
        ("/admin/models/other/reload", json!({}), 404, "model_not_found"),
        ("/admin/models/tiny", json!({}), 404, "unknown_url"),
        ("/admin/workers/tiny/0/restart", json!({"timeout_ms": -1}), 400, "invalid_value"),
        ("/admin/models/tiny/reload", json!({"drain_timeout_ms": 1e15}), 400, "invalid_value"),
    ] {
        let refused = reply(order(&env, path, body)).await;
        assert_eq!(refused.error(), (status, "invalid_request_error".into(), code.into()), "{path}");
    }
    assert_eq!(env.get("/readyz").await.status.as_u16(), 200, "nothing was done");
}

#[tokio::test]
async fn a_restarted_worker_releases_its_streams_and_comes_back_at_once() {
    let env = administered("workers:\n  restart_backoff_ms: 3600000\n  max_restart_backoff_ms: 3600000\n");
    let mut worker = env.next_ready_worker().await;
    for number in 1..=6 {
        let (_, streamed) = env.begin_stream(&mut worker).await;
        let restarting = order(&env, "/admin/workers/tiny/0/restart", Value::Null);
        let old = worker.pid;
        assert_eq!(code(Reply::read(streamed).await.events().last().unwrap()), "worker_lost");
        leave(worker).await;
        let mut next = env.next_worker().await;
        assert!(!is_alive(old), "it was reaped before the next one was started");
        let again = reply(order(&env, "/admin/workers/tiny/0/restart", json!({}))).await;
        assert_eq!(again.error().2, "restart_in_progress");
        let info = next.info();
        next.send(&Report::Ready(info)).await;
        let answer = reply(restarting).await.json();
        assert_eq!(
            (&answer["id"], &answer["state"], &answer["pid"]),
            (&json!("tiny/0"), &json!("ready"), &json!(next.pid))
        );
        assert_eq!(restarts(&env).await, number.to_string(), "more than would be a crash loop");
        worker = next;
    }
    // Still the first death.
    worker.die();
    env.next_ready_worker().await;
}

#[tokio::test]
async fn a_worker_that_is_to_be_restarted_gets_nothing_new() {
    let env = administered(&format!("{QUICK}  count: 2\n"));
    let mut one = env.next_ready_worker().await;
    let mut two = env.next_ready_worker().await;
    let (id, streamed) = env.begin_stream(&mut one).await;
    // Which of the two it is shows in what it is told.
    let number = env.app.registry.workers().iter().position(|it| it.streams == 1).unwrap();
    let path = format!("/admin/workers/tiny/{number}/restart");
    let restarting = order(&env, &path, json!({"drain_timeout_ms": 3_600_000}));
    until("draining", || env.app.registry.workers()[number].state.name() == "draining").await;
    for _ in 0..3 {
        let (other, response) = env.begin_stream(&mut two).await;
        two.events(other, vec![finished(FinishReason::Stop)]).await;
        assert_eq!(Reply::read(response).await.events().last().unwrap(), "[DONE]");
    }
    one.events(id, vec![chunk("a"), finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]", "it had the time");
    leave(one).await;
    env.next_ready_worker().await;
    assert_eq!(reply(restarting).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_restart_says_why_the_new_process_does_not_serve_or_that_it_does_not_yet() {
    let env = administered("workers:\n  restart_backoff_ms: 1\n");
    let worker = env.next_ready_worker().await;
    let restarting = order(&env, "/admin/workers/tiny/0/restart", json!({}));
    leave(worker).await;
    let mut next = env.next_worker().await;
    let failure =
        Failure { kind: FailureKind::DamagedModel, param: None, message: "a blob is damaged".into() };
    next.send(&Report::LoadFailed(failure)).await;
    next.die();
    let refused = reply(restarting).await;
    assert_eq!(refused.error(), (500, "server_error".into(), "restart_failed".into()));
    assert!(refused.text.contains("a blob is damaged"), "{}", refused.text);

    // It waits for a minute now; a restart does not.
    let late = order(&env, "/admin/workers/tiny/0/restart", json!({"timeout_ms": 0}));
    assert_eq!(reply(late).await.error(), (504, "server_error".into(), "restart_timeout".into()));
    env.next_ready_worker().await;
}

#[tokio::test]
async fn a_model_is_reloaded_worker_by_worker() {
    let env = administered(&format!("{QUICK}  count: 2\n"));
    let mut workers = vec![env.next_ready_worker().await, env.next_ready_worker().await];
    let reloading = order(&env, "/admin/models/tiny/reload", json!({}));
    for _ in 0..2 {
        until("one is leaving", || env.app.registry.workers().iter().any(|it| it.state.name() == "draining"))
            .await;
        assert_eq!(env.get("/readyz").await.status.as_u16(), 200, "the other one serves");
        let refused = reply(order(&env, "/admin/models/tiny/reload", json!({}))).await;
        assert_eq!(refused.error().2, "restart_in_progress");
        let leaving = env.app.registry.workers().into_iter().find(|it| it.state.name() == "draining");
        let pid = leaving.unwrap().work.unwrap().pid;
        let index = workers.iter().position(|worker| worker.pid == pid).unwrap();
        leave(workers.remove(index)).await;
        let mut next = env.next_worker().await;
        let info = ModelInfo { digest: "another".into(), ..next.info() };
        next.send(&Report::Ready(info)).await;
        workers.push(next);
    }
    let answer = reply(reloading).await.json();
    assert_eq!(
        answer,
        json!({
            "id": "tiny", "object": "model", "state": "ready", "workers": 2, "ready_workers": 2,
            "digest": "another",
        })
    );
}

#[tokio::test]
async fn unloading_goes_on_during_a_restart_and_ends_it() {
    let env = administered(QUICK);
    let mut worker = env.next_ready_worker().await;
    let (_, streamed) = env.begin_stream(&mut worker).await;
    let restarting = order(&env, "/admin/workers/tiny/0/restart", json!({"drain_timeout_ms": 3_600_000}));
    until("draining", || env.app.registry.workers()[0].state.name() == "draining").await;
    let unloading = order(&env, "/v1/models/tiny/unload", json!({"drain_timeout_ms": 0}));
    assert_eq!(reply(restarting).await.error().2, "model_unloading");
    let events = Reply::read(streamed).await.events();
    assert!(events.last().unwrap().contains("its model was unloaded"), "{events:?}");
    leave(worker).await;
    assert_eq!(reply(unloading).await.status.as_u16(), 200);
}

#[tokio::test]
async fn draining_turns_requests_away_and_says_how_many_streams_are_left() {
    let env = administered(QUICK);
    let mut worker = env.next_ready_worker().await;
    let (id, streamed) = env.begin_stream(&mut worker).await;
    for _ in 0..2 {
        let answer = reply(order(&env, "/admin/drain", Value::Null)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (202, json!({"state": "draining", "streams": 1}))
        );
    }
    soon("the order to stop", env.app.stop_requested()).await;
    let unready = env.get("/readyz").await;
    assert_eq!((unready.status.as_u16(), &unready.json()["shutting_down"]), (503, &json!(true)));
    assert_eq!(env.post(CHAT, &chat(json!({}))).await.error().2, "shutting_down");
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_process_that_ends_is_noticed_at_once_even_if_its_socket_stays_open() {
    let (env, mut worker) = TestEnv::ready("workers:\n  heartbeat_timeout_ms: 3600000\n").await;
    let (_, response) = env.begin_stream(&mut worker).await;
    kill(worker.pid);
    assert_eq!(code(Reply::read(response).await.events().last().unwrap()), "worker_lost");
    env.next_ready_worker().await;
}

#[tokio::test]
async fn a_worker_whose_kernels_stand_still_within_a_step_is_killed_and_replaced() {
    let settings = "workers:\n  heartbeat_timeout_ms: 3000\n  step_timeout_ms: 3600000\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    assert_eq!(worker.hello.options.heartbeat_millis, 500);
    let (_, response) = env.begin_stream(&mut worker).await;
    let heartbeat = Report::Heartbeat(Heartbeat { progress: Some(7), runnable: 1, ..Heartbeat::default() });
    let beating = async {
        loop {
            worker.send(&heartbeat).await;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    let reply = tokio::select! {
        () = beating => unreachable!(),
        reply = Reply::read(response) => reply,
    };
    let events = reply.events();
    let error = events.last().unwrap();
    assert!(code(error) == "worker_lost" && error.contains("its kernels did nothing"), "{error}");
    worker.closed().await;
    env.next_ready_worker().await;
}
