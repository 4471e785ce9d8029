//! Loading and unloading models while others serve.
#![allow(clippy::unwrap_used)]

#[path = "models/demand.rs"]
mod demand;
#[path = "models/listed.rs"]
mod listed;
#[path = "models/memory.rs"]
mod memory;
#[path = "models/routing.rs"]
mod routing;
mod support;

use axum::{
    body::Body,
    http::{Request, header},
    response::Response,
};
use protocol::{
    message::{Failure, FailureKind, FinishReason, Report, Submission, Verified},
    options::Verify,
};
use serde_json::{Value, json};
use support::*;
use tokio::task::JoinHandle;

const KEY: &str = "a-key-of-24-characters-x";

/// Settings with an admin key, and the file that holds it.
fn keyed(more: &str) -> (String, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KEY).unwrap();
    (format!("server:\n  admin_key_file: {}\n{more}", file.path().display()), file)
}

async fn env(more: &str) -> (TestEnv, FakeWorker) {
    let (settings, _file) = keyed(more);
    TestEnv::ready(&settings).await
}

/// What the worker was asked to verify.
fn verify(worker: &FakeWorker) -> Verify {
    worker.hello.options.verify
}

fn request(path: &str, authorization: Option<&str>, body: &Value) -> Request<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::post(format!("/v1/models/{path}"));
    match authorization {
        Some(value) => request.header(header::AUTHORIZATION, value).body(body).unwrap(),
        None => request.body(body).unwrap(),
    }
}

/// An administrator's request that goes on while the test plays the worker.
fn ask(env: &TestEnv, path: &str, body: Value) -> JoinHandle<Response> {
    env.begin_request(request(path, Some(&format!("Bearer {KEY}")), &body))
}

async fn reply(begun: JoinHandle<Response>) -> Reply {
    Reply::read(soon("an answer", begun).await.unwrap()).await
}

async fn load(env: &TestEnv, model: &str) -> FakeWorker {
    let begun = ask(env, &format!("{model}/load"), Value::Null);
    let worker = env.next_ready_worker().await;
    let answer = reply(begun).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["state"]), (200, &json!("ready")), "{}", answer.text);
    worker
}

/// The model's line in the list, or null.
async fn listed(env: &TestEnv, model: &str) -> Value {
    let list = env.get("/v1/models").await.json();
    let models = list["data"].as_array().unwrap();
    models.iter().find(|it| it["id"] == model).cloned().unwrap_or_default()
}

#[tokio::test]
async fn only_the_admin_key_loads_and_unloads() {
    let (open, _worker) = TestEnv::ready("").await;
    for action in ["load", "unload"] {
        let path = format!("tiny/{action}");
        let refused = Reply::read(open.send(request(&path, Some("Bearer x"), &Value::Null)).await).await;
        assert_eq!(refused.error(), (403, "invalid_request_error".into(), "admin_disabled".into()));
        assert!(refused.text.contains("admin_key_file") && refused.text.contains("KR_ADMIN_KEY"));
    }
    let (env, _worker) = env("").await;
    let wrong = format!("Bearer {KEY}x");
    for (authorization, code) in [
        (None, "missing_admin_key"),
        (Some("Basic YTpi"), "missing_admin_key"),
        (Some("Bearer"), "missing_admin_key"),
        (Some("Bearer "), "invalid_admin_key"),
        (Some("Bearer a-key-of-24-characters-X"), "invalid_admin_key"),
        (Some(wrong.as_str()), "invalid_admin_key"),
    ] {
        for action in ["load", "unload"] {
            let request = request(&format!("tiny/{action}"), authorization, &Value::Null);
            let refused = Reply::read(env.send(request).await).await;
            assert_eq!(refused.error(), (401, "invalid_request_error".into(), code.into()));
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
    }
    let answer = reply(ask(&env, "tiny/load", Value::Null)).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["id"]), (200, &json!("tiny")), "it is loaded already");
    for (path, body, status, code) in [
        ("tiny", json!({}), 405, "method_not_allowed"),
        ("load", json!({}), 405, "method_not_allowed"),
        ("tiny/load", json!({"workers": 0}), 400, "invalid_value"),
        ("tiny/load", json!({"worker": 1}), 400, "invalid_value"),
        ("tiny/load", json!([]), 400, "invalid_value"),
        ("tiny/load", json!({"workers": 2}), 409, "already_loaded"),
        ("tiny/unload", json!({"drain_timeout_ms": -1}), 400, "invalid_value"),
        ("org/other/unload", Value::Null, 404, "model_not_found"),
        ("a%0ab/load", Value::Null, 404, "model_not_found"),
    ] {
        let refused = reply(ask(&env, path, body)).await;
        assert_eq!(refused.error(), (status, "invalid_request_error".into(), code.into()), "{path}");
    }
}

#[tokio::test]
async fn a_second_model_is_loaded_beside_a_stream_and_requests_find_their_own() {
    let (env, mut first) = env("models:\n  on_demand: off\nstream_registry:\n  wait_timeout_ms: 0\n").await;
    let (id, streamed) = env.begin_stream(&mut first).await;
    let begun = ask(&env, "org/other/load", json!({"workers": 2}));
    let mut second = env.next_worker().await;
    assert_eq!(second.model, "org/other");
    assert_eq!(listed(&env, "org/other").await["state"], "loading");
    let refused = env.post(CHAT, &chat(json!({"model": "org/other"}))).await;
    assert_eq!(refused.error(), (503, "server_error".into(), "no_worker".into()));
    let info = second.info();
    second.send(&Report::Ready(info)).await;
    let answer = reply(begun).await.json();
    assert_eq!((&answer["workers"], &answer["ready_workers"]), (&json!(2), &json!(1)));
    assert_eq!(env.get("/v1/models/org/other").await.json()["state"], "ready");

    let (other, answer) = env.begin_stream(&mut second).await;
    second.events(other, vec![chunk("2"), finished(FinishReason::Stop)]).await;
    assert!(Reply::read(answer).await.text.contains("\"model\":\"org/other\""));
    first.events(id, vec![chunk("1"), finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");

    let unknown = env.post(CHAT, &chat(json!({"model": "third"}))).await;
    assert_eq!(unknown.error().2, "model_not_found");
    assert!(unknown.text.contains("`tiny`, `org/other`"), "{}", unknown.text);
}

#[tokio::test]
async fn a_worker_that_dies_touches_no_other_model() {
    let (env, mut first) = env("workers:\n  restart_backoff_ms: 1\n").await;
    let other = load(&env, "other").await;
    let (id, streamed) = env.begin_stream(&mut first).await;
    other.die();
    let mut again = env.next_worker().await;
    assert_eq!(again.model, "other");
    assert_eq!(listed(&env, "tiny").await["state"], "ready");
    first.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
    let info = again.info();
    again.send(&Report::Ready(info)).await;
    until("both", || env.app.registry.models().iter().all(|it| it.ready_workers == 1)).await;
}

#[tokio::test]
async fn unloading_drops_nothing_takes_nothing_new_and_frees_the_place() {
    let (env, _first) = env("models:\n  max_loaded: 2\n").await;
    let mut other = load(&env, "other").await;
    let refused = reply(ask(&env, "third/load", Value::Null)).await;
    assert_eq!(refused.error(), (409, "invalid_request_error".into(), "too_many_models".into()));
    assert!(refused.text.contains("`other`, `tiny`"), "{}", refused.text);

    let (id, streamed) = env.begin_stream(&mut other).await;
    let unloading = ask(&env, "other/unload", Value::Null);
    until("draining", || env.app.registry.resolve("other").is_err()).await;
    let refused = env.post(CHAT, &chat(json!({"model": "other"}))).await;
    assert_eq!(refused.error(), (404, "invalid_request_error".into(), "model_unloading".into()));
    let again = reply(ask(&env, "other/load", Value::Null)).await;
    assert_eq!(again.error(), (409, "invalid_request_error".into(), "model_unloading".into()));
    assert_eq!(listed(&env, "other").await["state"], "draining");
    let states = env.get("/readyz").await.json();
    assert_eq!(
        (&states["workers"][1]["model"], &states["workers"][1]["state"]),
        (&json!("other"), &json!("draining"))
    );
    let joined = ask(&env, "other/unload", Value::Null);

    // Credit is given back all the while; the order to leave comes after the last event.
    other.events(id, (0..40).map(|_| chunk("x")).collect()).await;
    let mut body = streamed.into_body();
    let mut seen = String::new();
    while seen.matches("\"content\":\"x\"").count() < 40 {
        seen.push_str(std::str::from_utf8(&piece(&mut body).await.unwrap()).unwrap());
    }
    while !matches!(other.next().await, Submission::Credit { id: of, chunks: 1.. } if of == id) {}
    other.events(id, vec![chunk("last"), finished(FinishReason::Stop)]).await;
    let rest = piece(&mut body).await.unwrap();
    assert!(rest.ends_with(b"data: [DONE]\n\n"), "{rest:?}");
    while let Submission::Credit { .. } = {
        let next = other.next().await;
        assert!(matches!(next, Submission::Credit { .. } | Submission::Drain), "{next:?}");
        next
    } {}
    let pid = other.pid;
    other.die();
    for answer in [unloading, joined] {
        assert_eq!(
            reply(answer).await.json(),
            json!({"id": "other", "object": "model", "state": "unloaded"})
        );
    }
    assert!(!std::path::Path::new("/proc").join(pid.to_string()).exists());
    assert_eq!(listed(&env, "other").await, Value::Null);
    assert!(!env.get("/metrics").await.text.contains("model=\"other\""), "its workers are forgotten");
    let gone = env.post(CHAT, &chat(json!({"model": "other"}))).await;
    assert_eq!(gone.error().2, "model_not_found");
    load(&env, "third").await;
}

#[tokio::test]
async fn streams_that_outlast_the_drain_timeout_end_with_one_error() {
    let (env, _first) = env("").await;
    let mut other = load(&env, "other").await;
    let (id, streamed) = env.begin_stream(&mut other).await;
    let unloading = ask(&env, "other/unload", json!({"drain_timeout_ms": 0}));
    let events = Reply::read(streamed).await.events();
    assert!(events.last().unwrap().contains("its model was unloaded"), "{events:?}");
    let received = [other.next().await, other.next().await];
    assert!(
        received.contains(&Submission::Cancel(id)) && received.contains(&Submission::Drain),
        "{received:?}"
    );
    other.die();
    assert_eq!(reply(unloading).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_model_that_can_not_be_loaded_is_an_error_listed_and_takes_no_place() {
    let (env, _first) = env("models:\n  max_loaded: 2\n").await;
    for (kind, status, code) in [
        (FailureKind::UnknownModel, 404, "model_not_found"),
        (FailureKind::DamagedModel, 422, "model_damaged"),
        (FailureKind::Internal, 500, "load_failed"),
    ] {
        let begun = ask(&env, "other/load", Value::Null);
        let mut worker = env.next_worker().await;
        worker
            .send(&Report::LoadFailed(Failure { kind, param: None, message: "import it again".into() }))
            .await;
        worker.die();
        let refused = reply(begun).await;
        let (found, _, found_code) = refused.error();
        assert_eq!((found, found_code.as_str()), (status, code));
        assert!(refused.text.contains("import it again"), "{}", refused.text);
        let line = listed(&env, "other").await;
        assert_eq!((&line["state"], &line["reason"]), (&json!("failed"), &json!("import it again")));
    }
    assert_eq!(env.post(CHAT, &chat(json!({"model": "other"}))).await.error().2, "model_not_found");
    load(&env, "another").await;
    assert_eq!(reply(ask(&env, "other/unload", Value::Null)).await.status.as_u16(), 200);
    assert_eq!(listed(&env, "other").await, Value::Null);
}

#[tokio::test]
async fn a_model_may_be_unloaded_before_it_is_ready() {
    let (env, _first) = env("").await;
    let loading = ask(&env, "other/load", Value::Null);
    let waiting = ask(&env, "tiny/load", Value::Null);
    assert_eq!(reply(waiting).await.status.as_u16(), 200, "others are not kept waiting");
    let worker = env.next_worker().await;
    let unloading = ask(&env, "other/unload", Value::Null);
    assert_eq!(reply(unloading).await.status.as_u16(), 200);
    worker.closed().await;
    assert_eq!(reply(loading).await.error().2, "model_unloading");
}

#[tokio::test]
async fn what_a_verification_of_the_stored_model_finds_is_shown() {
    let (env, mut worker) = env("").await;
    let runs = |outcome: &str| format!("kr_verify_runs_total{{model=\"tiny\",outcome=\"{outcome}\"}}");
    let message = "a blob is damaged; import it again".to_owned();
    let failure = Failure { kind: FailureKind::DamagedModel, param: None, message: message.clone() };
    worker.send(&Report::Damaged(failure)).await;
    until("the damage", || env.app.registry.models()[0].reason.is_some()).await;
    let line = listed(&env, "tiny").await;
    assert_eq!((&line["state"], &line["reason"]), (&json!("ready"), &json!(message)), "it goes on serving");
    let health = env.get("/readyz").await;
    assert_eq!((health.status.as_u16(), &health.json()["models"][0]["reason"]), (200, &json!(message)));
    assert_eq!(env.metric(&runs("damaged")).await, "1");
    // A process reports one outcome: further ones, however many, change nothing and are not logged.
    let verified = Report::Verified(Verified { bytes: 5, micros: 1 });
    for _ in 0..100 {
        let failure = Failure { kind: FailureKind::DamagedModel, param: None, message: "other".into() };
        worker.send(&Report::Damaged(failure)).await;
        worker.send(&verified).await;
    }
    let (id, response) = env.begin_stream(&mut worker).await;
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    Reply::read(response).await;
    assert_eq!(env.metric(&runs("damaged")).await, "1");
    assert_eq!(listed(&env, "tiny").await["reason"], json!(message));

    worker.die();
    let mut worker = env.next_ready_worker().await;
    worker.send(&verified).await;
    until("the repair", || env.app.registry.models()[0].reason.is_none()).await;
    assert_eq!(env.metric(&runs("good")).await, "1");

    let unloading = ask(&env, "tiny/unload", Value::Null);
    assert_eq!(worker.next().await, Submission::Drain);
    worker.die();
    assert_eq!(reply(unloading).await.status.as_u16(), 200);
    let metrics = env.app.exposition.render().unwrap();
    assert!(!metrics.contains("model=\"tiny\""), "{metrics}");
}

#[tokio::test]
async fn in_the_background_one_worker_verifies_until_it_has_done_so() {
    let (env, first) = env("workers:\n  count: 2\n  restart_backoff_ms: 1\n").await;
    let second = env.next_worker().await;
    let (verifier, other) =
        if verify(&first) == Verify::Background { (first, second) } else { (second, first) };
    assert_eq!((verify(&verifier), verify(&other)), (Verify::Background, Verify::Header));
    verifier.die();
    let mut verifier = env.next_ready_worker().await;
    assert_eq!(verify(&verifier), Verify::Background, "it died before it was done");
    verifier.send(&Report::Verified(Verified { bytes: 5, micros: 1 })).await;
    until("the outcome", || env.app.exposition.render().unwrap().contains("outcome=\"good\"")).await;
    verifier.die();
    assert_eq!(verify(&env.next_worker().await), Verify::Header);
}

#[tokio::test]
async fn a_gateway_that_goes_down_gives_up_loads_and_loads_nothing_more() {
    let (env, _first) = env("").await;
    let loading = ask(&env, "other/load", Value::Null);
    let worker = env.next_worker().await;
    env.app.models.close();
    assert_eq!(reply(loading).await.error().2, "model_unloading");
    worker.closed().await;
    assert_eq!(reply(ask(&env, "third/load", Value::Null)).await.error().2, "shutting_down");
    assert!(env.app.registry.resolve("tiny").is_ok());
}

#[tokio::test]
async fn a_worker_that_dies_while_its_model_is_unloaded_costs_no_stream() {
    let (env, _first) = env("models:\n  max_loaded: 2\nworkers:\n  restart_backoff_ms: 1\n").await;
    let mut other = load(&env, "other").await;
    let (id, streamed) = env.begin_stream(&mut other).await;
    let reading = tokio::spawn(Reply::read(streamed));
    let unloading = ask(&env, "other/unload", Value::Null);
    until("draining", || env.app.registry.resolve("other").is_err()).await;
    other.events(id, vec![chunk("a")]).await;
    other.die();

    let mut other = env.next_ready_worker().await;
    let again = other.generate().await;
    assert_eq!(again.resume.len(), 1);
    let refused = env.post(CHAT, &chat(json!({"model": "other"}))).await;
    assert_eq!(refused.error().2, "model_unloading", "it is back for what it had alone");
    other.admit(again.id).await;
    other.events(again.id, vec![chunk("b"), finished(FinishReason::Stop)]).await;
    let events = soon("its end", reading).await.unwrap().events();
    assert_eq!(events.last().unwrap(), "[DONE]", "{events:?}");
    while !matches!(other.next().await, Submission::Drain) {}
    other.die();
    assert_eq!(reply(unloading).await.status.as_u16(), 200);
    assert_eq!(listed(&env, "other").await, Value::Null);
}
