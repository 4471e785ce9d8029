//! Models that come and go with requests.

use axum::{
    body::Body,
    http::{Request, header},
};
use futures_util::FutureExt;
use gateway::fleet::ModelState;
use protocol::{
    message::{Failure, FailureKind, FinishReason, Report, Submission},
    stored::StoredModel,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{KEY, keyed, support::*};

pub(super) fn stored(name: &str) -> StoredModel {
    StoredModel {
        name: Some(name.to_owned()),
        digest: format!("{:0>64}", name.bytes().map(|byte| format!("{byte:x}")).collect::<String>()),
        architecture: Some("llama".to_owned()),
        base: None,
        size: 4000,
        weight_bytes: 3000,
        kv_token_values: 0,
        context_length: Some(256),
        embeds: false,
        has_adapters: false,
        imported_at: 1_800_000_000,
        defect: None,
    }
}

pub(super) fn damaged(name: &str) -> StoredModel {
    let message = "a file in /home/ann/store is damaged".to_owned();
    let defect = Some(Failure { kind: FailureKind::DamagedModel, param: None, message });
    StoredModel { defect, ..stored(name) }
}

/// A gateway that serves `tiny`, over a store that has these as well.
pub(super) async fn env(settings: &str, names: &[&str]) -> (TestEnv, FakeWorker) {
    let (env, worker) = TestEnv::ready(settings).await;
    env.store(&names.iter().map(|name| stored(name)).collect::<Vec<_>>());
    (env, worker)
}

pub(super) fn ask(model: &str) -> Value {
    chat(json!({"model": model}))
}

/// Answers the next request.
pub(super) async fn serve(worker: &mut FakeWorker) {
    let id = worker.generate().await.id;
    worker.admit(id).await;
    worker.events(id, vec![chunk("x"), finished(FinishReason::Stop)]).await;
}

/// A request for a model that has to be loaded for it, answered. The model is idle again when this returns.
async fn use_once(env: &TestEnv, model: &str) -> FakeWorker {
    let begun = env.begin(CHAT, &ask(model));
    let mut worker = env.next_ready_worker().await;
    assert_eq!(worker.model, model);
    serve(&mut worker).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    worker
}

/// The worker is ordered to leave, and does.
async fn leave(mut worker: FakeWorker) {
    while worker.next().await != Submission::Drain {}
    worker.die();
}

pub(super) async fn states(env: &TestEnv) -> Vec<(String, String)> {
    let list = env.get("/v1/models").await.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list["data"].as_array().unwrap().iter().map(|it| (text(&it["id"]), text(&it["state"]))).collect()
}

pub(super) fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn the_first_request_loads_a_stored_model_and_others_wait_for_the_same_load_in_their_order() {
    let (env, _tiny) = env("", &["org/other"]).await;
    let first = env.begin(CHAT, &chat(json!({"model": "org/other", "max_tokens": 1})));
    let mut worker = env.next_worker().await;
    assert_eq!(worker.model, "org/other");
    assert_eq!(env.get("/readyz").await.status.as_u16(), 200, "it was not named");
    let mut begun = vec![first];
    for number in 2..=5 {
        let request = post(CHAT, &chat(json!({"model": "org/other", "max_tokens": number})));
        let mut answer = Box::pin(env.routes().oneshot(request).map(Result::unwrap));
        assert!((&mut answer).now_or_never().is_none());
        begun.push(tokio::spawn(answer));
    }
    let info = worker.info();
    worker.send(&Report::Ready(info)).await;
    for (number, begun) in (1..).zip(begun) {
        let generate = worker.generate().await;
        assert_eq!(generate.max_tokens, Some(number));
        worker.admit(generate.id).await;
        worker.events(generate.id, vec![finished(FinishReason::Stop)]).await;
        assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    }
    assert_eq!(env.metric("kr_demand_loads_total").await, "1");
    assert_eq!(states(&env).await, pairs(&[("tiny", "ready"), ("org/other", "ready")]));
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_load() {
    let (env, _tiny) = env("", &["other"]).await;
    let begun = env.begin(CHAT, &ask("other"));
    let mut worker = env.next_worker().await;
    let next = env.begin(CHAT, &ask("other"));
    begun.abort();
    assert!(soon("its end", begun).await.unwrap_err().is_cancelled());
    let info = worker.info();
    worker.send(&Report::Ready(info)).await;
    serve(&mut worker).await;
    assert_eq!(soon("an answer", next).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_load_that_fails_answers_everyone_and_is_not_tried_again_for_each_request() {
    let (env, _tiny) = env("", &["other"]).await;
    let mut begun = vec![env.begin(CHAT, &ask("other"))];
    let mut worker = env.next_worker().await;
    begun.push(env.begin(CHAT, &ask("other")));
    let message = "cannot read /home/ann/store/x: import it again".to_owned();
    let failure = Failure { kind: FailureKind::DamagedModel, param: None, message };
    worker.send(&Report::LoadFailed(failure)).await;
    worker.die();
    begun.push(tokio::spawn(env.routes().oneshot(post(CHAT, &ask("other"))).map(Result::unwrap)));
    for answer in begun {
        let refused = Reply::read(soon("an answer", answer).await.unwrap()).await;
        assert_eq!(refused.error(), (422, "server_error".into(), "model_damaged".into()));
        assert!(refused.text.contains("cannot read <path>: import it again"), "{}", refused.text);
    }
    until("it is listed", || env.app.registry.models().iter().any(|it| it.workers == 0)).await;
    let refused = env.post(CHAT, &ask("other")).await;
    assert_eq!(refused.error().2, "model_damaged");
    assert_eq!(env.metric("kr_demand_loads_total").await, "1");
    assert_eq!(states(&env).await[1], ("other".to_owned(), "failed".to_owned()));
}

#[tokio::test]
async fn the_idle_model_that_was_used_longest_ago_makes_room_and_a_named_one_last() {
    let (env, mut tiny) = env("models:\n  max_loaded: 4\n", &["a", "b", "c", "d", "e"]).await;
    let a = use_once(&env, "a").await;
    let mut b = use_once(&env, "b").await;
    let mut c = use_once(&env, "c").await;
    // `a` would be next, had it not been used again. `tiny` was never used, but it was named at the start.
    let mut a = a;
    let begun = env.begin(CHAT, &ask("a"));
    serve(&mut a).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    let (id, streamed) = env.begin_stream(&mut b).await;

    let begun = env.begin(CHAT, &ask("d"));
    assert_eq!(c.next().await, Submission::Drain);
    assert_eq!(states(&env).await[3], ("c".to_owned(), "draining".to_owned()));
    c.die();
    let mut d = env.next_ready_worker().await;
    assert_eq!(d.model, "d");
    let d_id = d.generate().await.id;
    assert_eq!(env.metric("kr_demand_unloads_total{reason=\"room\"}").await, "1");
    let names = ["tiny", "a", "b", "d", "c", "e"]
        .map(|name| if "ce".contains(name) { (name, "stored") } else { (name, "ready") });
    assert_eq!(states(&env).await, pairs(&names));

    // Nothing but `a` and `tiny` is idle.
    let busy = env.begin(CHAT, &ask("e"));
    leave(a).await;
    let mut e = env.next_ready_worker().await;
    let e_id = e.generate().await.id;
    let last = env.begin(CHAT, &ask("c"));
    assert_eq!(tiny.next().await, Submission::Drain, "nothing else can make room");
    tiny.die();
    let mut c = env.next_ready_worker().await;
    serve(&mut c).await;
    assert_eq!(soon("an answer", last).await.unwrap().status().as_u16(), 200);
    for (worker, id, begun) in [(&mut d, d_id, begun), (&mut e, e_id, busy)] {
        worker.admit(id).await;
        worker.events(id, vec![finished(FinishReason::Stop)]).await;
        assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    }
    b.events(id, vec![chunk("x"), finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]", "it was never disturbed");
}

#[tokio::test]
async fn a_request_waits_until_a_busy_model_is_idle() {
    let (env, mut tiny) = env("models:\n  max_loaded: 1\n", &["a", "b"]).await;
    let (id, streamed) = env.begin_stream(&mut tiny).await;
    let first = env.begin(CHAT, &ask("a"));
    until("the store was asked", || env.listings() == 1).await;
    tiny.events(id, vec![chunk("x")]).await;
    tiny.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
    leave(tiny).await;
    let mut a = env.next_ready_worker().await;
    assert_eq!(a.model, "a");
    let second = env.begin(CHAT, &ask("b"));
    serve(&mut a).await;
    assert_eq!(soon("an answer", first).await.unwrap().status().as_u16(), 200);
    leave(a).await;
    let mut b = env.next_ready_worker().await;
    serve(&mut b).await;
    assert_eq!(soon("an answer", second).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_request_that_waits_for_room_has_it_once_more_may_be_loaded() {
    let (env, mut tiny) = env("models:\n  max_loaded: 1\n", &["a"]).await;
    let (id, streamed) = env.begin_stream(&mut tiny).await;
    let waiting = env.begin(CHAT, &ask("a"));
    until("the store was asked", || env.listings() == 1).await;
    // It finds no room in these turns: all tasks have this thread.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    env.app.models.set_max_loaded(2);
    let mut a = env.next_ready_worker().await;
    serve(&mut a).await;
    assert_eq!(soon("an answer", waiting).await.unwrap().status().as_u16(), 200);
    tiny.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_request_for_which_no_model_makes_room_is_told_when_to_come_back() {
    let settings = "models:\n  max_loaded: 1\n  wait_timeout_ms: 20\n";
    let (env, mut tiny) = env(settings, &["a"]).await;
    let (id, streamed) = env.begin_stream(&mut tiny).await;
    let refused = env.post(CHAT, &ask("a")).await;
    assert_eq!(refused.error(), (503, "server_error".into(), "no_room".into()));
    assert_eq!((refused.header("retry-after"), refused.header("retry-after-ms")), ("2", "2000"));
    tiny.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_request_for_a_model_that_takes_long_to_leave_is_told_so() {
    let (settings, _file) = keyed("models:\n  wait_timeout_ms: 20\n");
    let (env, mut tiny) = env(&settings, &["tiny"]).await;
    let (id, streamed) = env.begin_stream(&mut tiny).await;
    let unloading = super::ask(&env, "tiny/unload", Value::Null);
    until("it leaves", || env.app.registry.models()[0].state == ModelState::Draining).await;
    let refused = env.post(CHAT, &ask("tiny")).await;
    assert_eq!(refused.error(), (503, "server_error".into(), "model_unloading".into()));
    assert!(refused.text.contains("`tiny` is being unloaded"), "{}", refused.text);
    assert_eq!(refused.header("retry-after"), "2");
    tiny.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
    leave(tiny).await;
    assert_eq!(super::reply(unloading).await.status.as_u16(), 200);
}

#[tokio::test]
async fn as_many_requests_wait_for_models_as_may() {
    let (env, _tiny) = env("stream_registry:\n  max_waiting: 1\n", &["a"]).await;
    let waiting = env.begin(CHAT, &ask("a"));
    let mut worker = env.next_worker().await;
    let refused = env.post(CHAT, &ask("a")).await;
    assert_eq!(refused.error(), (429, "rate_limit_error".into(), "queue_full".into()));
    let info = worker.info();
    worker.send(&Report::Ready(info)).await;
    serve(&mut worker).await;
    assert_eq!(soon("an answer", waiting).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_model_that_nobody_uses_is_unloaded_unless_it_was_named() {
    let (env, mut tiny) = env("models:\n  idle_ttl_ms: 40\n", &["other", "tiny"]).await;
    let worker = use_once(&env, "other").await;
    leave(worker).await;
    until("it is gone", || env.app.registry.models().len() == 1).await;
    assert_eq!(states(&env).await, pairs(&[("tiny", "ready"), ("other", "stored")]));
    assert_eq!(env.metric("kr_demand_unloads_total{reason=\"idle\"}").await, "1");
    let (id, streamed) = env.begin_stream(&mut tiny).await;
    tiny.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
    use_once(&env, "other").await;
}

#[tokio::test]
async fn a_model_that_is_being_unloaded_is_loaded_again_when_it_is_gone() {
    let (settings, _file) = keyed("");
    let (env, _tiny) = env(&settings, &["other"]).await;
    let mut worker = use_once(&env, "other").await;
    let (id, streamed) = env.begin_stream(&mut worker).await;
    let unloading =
        Request::post("/v1/models/other/unload").header(header::AUTHORIZATION, format!("Bearer {KEY}"));
    let unloading = env.begin_request(unloading.body(Body::empty()).unwrap());
    until("draining", || env.app.registry.resolve("other").is_err()).await;
    let begun = env.begin(CHAT, &ask("other"));
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(streamed).await.events().last().unwrap(), "[DONE]");
    leave(worker).await;
    assert_eq!(soon("an answer", unloading).await.unwrap().status().as_u16(), 200);
    let mut worker = env.next_ready_worker().await;
    serve(&mut worker).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_gateway_without_models_is_ready_and_loads_what_is_asked_for() {
    let env = TestEnv::start_with("", None);
    env.store(&[stored("org/other")]);
    assert_eq!(env.get("/readyz").await.status.as_u16(), 200);
    let unknown = env.post(CHAT, &ask("gpt-9")).await;
    assert_eq!(unknown.error(), (404, "invalid_request_error".into(), "model_not_found".into()));
    assert!(unknown.text.contains("this server has `org/other`"), "{}", unknown.text);
    // By a part of its digest; it is listed under its name.
    let digest = stored("org/other").digest;
    let begun = env.begin(CHAT, &ask(&digest[..60]));
    let mut worker = env.next_ready_worker().await;
    assert_eq!(worker.model, "org/other");
    serve(&mut worker).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    env.app.models.close();
    assert_eq!(env.post(CHAT, &ask(&digest)).await.error().2, "shutting_down");
}
