//! Workers that die, freeze, break the rules, or never serve.
#![allow(clippy::unwrap_used)]

#[path = "supervision/restarts.rs"]
mod restarts;
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

/// Restarts at once, however often workers die.
const QUICK: &str = "workers:\n  restart_backoff_ms: 1\n  max_restart_backoff_ms: 1\n  \
                     heartbeat_timeout_ms: 60000\n  crash_loop_deaths: 1000\n";

/// Why the model that is served from the start could not be loaded.
async fn failed_start(env: TestEnv) -> String {
    soon("the end", env.loading).await.unwrap().unwrap_err().to_string()
}

fn code(event: &str) -> Value {
    serde_json::from_str::<Value>(event).unwrap()["error"]["code"].clone()
}

/// The stream of a request that each of two workers does not survive: `fatal` is what each does once it has accepted it.
/// Returns the error that ends it, and the worker after that.
async fn blamed(
    env: &TestEnv,
    mut worker: FakeWorker,
    fatal: impl AsyncFn(&mut FakeWorker, RequestId),
) -> (String, FakeWorker) {
    let (first, response) = env.begin_stream(&mut worker).await;
    let reading = tokio::spawn(Reply::read(response));
    fatal(&mut worker, first).await;
    worker.closed().await;
    let mut worker = env.next_ready_worker().await;
    let second = worker.generate().await.id;
    worker.admit(second).await;
    fatal(&mut worker, second).await;
    worker.closed().await;
    let events = soon("its end", reading).await.unwrap().events();
    let error = events.last().unwrap().clone();
    assert_eq!(code(&error), "worker_error", "{error}");
    (error, env.next_ready_worker().await)
}

/// The stream of `response` has come to this worker, which ends it.
async fn goes_on(mut worker: FakeWorker, response: Response) {
    let reading = tokio::spawn(Reply::read(response));
    let id = worker.generate().await.id;
    worker.admit(id).await;
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(soon("its end", reading).await.unwrap().events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn what_a_dead_worker_had_goes_on_with_the_next_process() {
    let (env, mut worker) = TestEnv::ready(QUICK).await;
    let (id, streamed) = env.begin_stream(&mut worker).await;
    let streamed = tokio::spawn(Reply::read(streamed));
    let whole = env.begin(CHAT, &chat(json!({})));
    let preparing = worker.generate().await;
    worker.events(id, vec![chunk("a")]).await;
    let first = worker.hello.incarnation;
    let segment = worker.hello.segment.clone();
    assert!(!std::path::Path::new(&segment).exists(), "the segment's name is gone once both hold it");
    worker.die();

    let mut worker = env.next_ready_worker().await;
    assert_ne!(worker.hello.incarnation, first);
    let both = [worker.generate().await, worker.generate().await];
    assert_eq!(
        both.each_ref().map(|it| it.resume.len()).iter().sum::<usize>(),
        1,
        "one had a token: {both:?}"
    );
    for again in both {
        assert!(again.id != id && again.id != preparing.id);
        worker.admit(again.id).await;
        worker.events(again.id, vec![chunk("b"), finished(FinishReason::Stop)]).await;
    }
    let events = soon("its end", streamed).await.unwrap().events();
    let [_role, one, two, _end, done] = &events[..] else { panic!("{events:?}") };
    assert!(one.contains("\"a\""), "what it had published is delivered: {one}");
    assert!(two.contains("\"b\"") && done == "[DONE]", "{events:?}");
    let reply = Reply::read(soon("an answer", whole).await.unwrap()).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "b");
    until("free places", || env.app.admission.metrics().streams_open.get() == 0).await;
    assert_eq!(env.metric("kr_worker_restarts_total{model=\"tiny\",worker=\"0\"}").await, "1");
    assert_eq!(env.metric("kr_migrations_total{cause=\"killed\"}").await, "2");
    assert_eq!(env.metric("kr_prompt_tokens_total{model=\"tiny\"}").await, "6", "a prompt counts once");
}

#[tokio::test]
async fn a_frozen_worker_is_killed_and_replaced_and_its_stream_goes_on() {
    let settings = "workers:\n  restart_backoff_ms: 1\n  heartbeat_timeout_ms: 200\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let (_, response) = env.begin_stream(&mut worker).await;
    worker.closed().await;
    let old = worker.pid;
    let worker = env.next_ready_worker().await;
    assert_ne!(worker.pid, old);
    assert!(!is_alive(old), "it was reaped before the next one was started");
    goes_on(worker, response).await;
}

#[tokio::test]
async fn a_request_that_freezes_two_workers_gets_no_third() {
    let settings = "workers:\n  restart_backoff_ms: 1\n  heartbeat_timeout_ms: 200\n";
    let (env, worker) = TestEnv::ready(settings).await;
    let (error, _next) = blamed(&env, worker, async |_: &mut FakeWorker, _| {}).await;
    assert!(error.contains("it froze"), "{error}");
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_ends_itself_and_not_the_gateway() {
    let (env, mut worker) = TestEnv::ready(QUICK).await;
    for (kind, body) in [(FrameKind::Report, &b"\xff\xff\xff"[..]), (FrameKind::Batch, b"")] {
        let broken = async |worker: &mut FakeWorker, _| worker.send_bytes(kind, body).await;
        (_, worker) = blamed(&env, worker, broken).await;
    }
}

#[tokio::test]
async fn a_worker_that_prepares_one_prompt_forever_is_killed_and_replaced() {
    let settings =
        "workers:\n  restart_backoff_ms: 1\n  heartbeat_timeout_ms: 60000\n  step_timeout_ms: 100\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let begun = env.begin(CHAT, &chat(json!({})));
    for _ in 0..2 {
        worker.generate().await;
        for oldest_preparation_millis in [1000, 2000] {
            let heartbeat = Heartbeat { oldest_preparation_millis, ..Heartbeat::default() };
            worker.send(&Report::Heartbeat(heartbeat)).await;
        }
        worker.closed().await;
        worker = env.next_ready_worker().await;
    }
    let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
    assert_eq!(reply.error().2, "worker_error");
    assert!(reply.text.contains("preparation"), "{}", reply.text);
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
        let chunk = Delta { text: "x".into(), tokens: vec![7; tokens].into(), ..Delta::default() };
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
        let too_much = async |worker: &mut FakeWorker, id| {
            worker.try_send_bytes(FrameKind::Report, &body(id)).await;
        };
        let (error, next) = blamed(&env, worker, too_much).await;
        assert!(error.contains(why), "{why}: {error}");
        worker = next;
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
    let held = tokio::spawn(Reply::read(held));
    let mut two = env.next_worker().await;
    two.send(&Report::Ready(model_info("tiny"))).await;
    until("both", || env.app.registry.workers().iter().all(|s| s.state.name() == "ready")).await;
    let (id, response) = env.begin_stream(&mut two).await;
    one.die();
    let moved = two.generate().await.id;
    two.admit(moved).await;
    two.events(moved, vec![chunk("a"), finished(FinishReason::Stop)]).await;
    assert_eq!(soon("its end", held).await.unwrap().events().last().unwrap(), "[DONE]");
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

#[tokio::test]
async fn a_process_that_ends_is_noticed_at_once_even_if_its_socket_stays_open() {
    let (env, mut worker) = TestEnv::ready("workers:\n  heartbeat_timeout_ms: 3600000\n").await;
    let (_, response) = env.begin_stream(&mut worker).await;
    kill(worker.pid);
    let next = env.next_ready_worker().await;
    goes_on(next, response).await;
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
    let note = || env.app.registry.workers()[0].note.clone().unwrap_or_default();
    tokio::select! {
        () = beating => unreachable!(),
        () = until("its end", || note().contains("its kernels did nothing")) => {}
    }
    worker.closed().await;
    let next = env.next_ready_worker().await;
    goes_on(next, response).await;
}
