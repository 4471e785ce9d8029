//! Restarts, reloads and drains that an administrator asks for.

use axum::{body::Body, response::Response};
use protocol::message::{Failure, FailureKind, FinishReason, ModelInfo, Report, Submission};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{QUICK, support::*};

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
    if body.is_null() {
        *request.body_mut() = Body::empty();
    }
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
        let streamed = tokio::spawn(Reply::read(streamed));
        let restarting = order(&env, "/admin/workers/tiny/0/restart", Value::Null);
        let old = worker.pid;
        leave(worker).await;
        let mut next = env.next_worker().await;
        assert!(!is_alive(old), "it was reaped before the next one was started");
        let again = reply(order(&env, "/admin/workers/tiny/0/restart", json!({}))).await;
        assert_eq!(again.error().2, "restart_in_progress");
        let info = next.info();
        next.send(&Report::Ready(info)).await;
        let moved = next.generate().await.id;
        next.admit(moved).await;
        next.events(moved, vec![finished(FinishReason::Stop)]).await;
        assert_eq!(soon("its end", streamed).await.unwrap().events().last().unwrap(), "[DONE]");
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
    let (id, streamed) = env.begin_stream(&mut one).await;
    let number = env.app.registry.workers().iter().position(|it| it.streams == 1).unwrap();
    let mut two = env.next_ready_worker().await;
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
