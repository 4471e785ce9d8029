//! Who gets a place, who is turned away, and what they are told.

use std::time::Duration;

use axum::{body::Body, http::Request};
use protocol::message::{FinishReason, Prompt, Submission};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::*;

/// A completion of `prompt` with these headers.
fn request(prompt: &str, headers: &[(&str, &str)], more: Value) -> Request<Body> {
    let mut body = json!({"model": "tiny", "prompt": prompt});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut request = post(COMPLETIONS, &body);
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    request
}

async fn until_waiting(env: &TestEnv, count: i64) {
    until("requests in the queue", || env.app.admission.metrics().queue_length.get() == count).await;
}

/// Answers whatever comes next, and returns its prompt.
async fn answer_next(worker: &mut FakeWorker) -> String {
    let generate = worker.generate().await;
    worker.admit(generate.id).await;
    worker.events(generate.id, vec![chunk("x"), finished(FinishReason::Stop)]).await;
    match generate.prompt {
        Prompt::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

const ONE: &str = "stream_registry:\n  adaptive_limits: {max_streams: 1}\n";

#[tokio::test]
async fn who_is_turned_away_is_told_what_is_full_and_for_how_long() {
    let (env, _worker) = TestEnv::ready(&format!("{ONE}  max_waiting: 1\n")).await;
    let _running = env.begin_request(request("a", &[], json!({})));
    let _waiting = env.begin_request(request("b", &[], json!({"max_tokens": 99})));
    until_waiting(&env, 1).await;
    let reply = Reply::read(env.send(request("c", &[], json!({}))).await).await;
    assert_eq!(reply.error(), (429, "rate_limit_error".into(), "queue_full".into()));
    let error = &reply.json()["error"];
    let queue = json!({
        "limit": 1, "running": 1, "waiting": 1, "max_waiting": 1,
        "waiting_tokens": 99, "max_waiting_tokens": 1_000_000,
    });
    assert_eq!(error["queue"], queue);
    let after: u64 = reply.header("retry-after-ms").parse().unwrap();
    assert_eq!(error["retry_after_ms"], after);
    assert_eq!(reply.header("retry-after"), after.div_ceil(1000).to_string());
    assert_eq!(env.metric("kr_admit_limit{model=\"tiny\"}").await, "1");
}

#[tokio::test]
async fn the_queue_is_bounded_in_tokens() {
    let (env, _worker) = TestEnv::ready(&format!("{ONE}  max_waiting_tokens: 100\n")).await;
    let _running = env.begin_request(request("a", &[], json!({})));
    let _waiting = env.begin_request(request("b", &[], json!({"max_tokens": 99})));
    until_waiting(&env, 1).await;
    let reply = Reply::read(env.send(request("c", &[], json!({"max_tokens": 2}))).await).await;
    assert_eq!(reply.error(), (429, "rate_limit_error".into(), "queue_full".into()));
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("about 99 tokens wait, and 100 may"));
    assert_eq!(env.metric("kr_admit_rejections_total{reason=\"queue_tokens\"}").await, "1");
}

#[tokio::test]
async fn the_urgent_go_first_by_field_and_by_header() {
    let (env, mut worker) = TestEnv::ready(ONE).await;
    let mut begun = vec![env.begin_request(request("first", &[], json!({})))];
    let first = worker.generate().await.id;
    for (count, (name, headers, more)) in [
        ("low", vec![], json!({"priority": "low"})),
        ("normal", vec![], json!({})),
        ("number", vec![], json!({"priority": -2})),
        ("high", vec![("x-priority", "high")], json!({"priority": "low"})),
    ]
    .into_iter()
    .enumerate()
    {
        begun.push(env.begin_request(request(name, &headers, more)));
        until_waiting(&env, count as i64 + 1).await;
    }
    worker.admit(first).await;
    worker.events(first, vec![finished(FinishReason::Stop)]).await;
    for expected in ["number", "high", "normal", "low"] {
        assert_eq!(answer_next(&mut worker).await, expected);
    }
    for answer in begun {
        assert_eq!(soon("an answer", answer).await.unwrap().status().as_u16(), 200);
    }
    for (headers, more, param) in [
        (vec![("x-priority", "urgent")], json!({}), "x-priority"),
        (vec![("x-request-timeout-ms", "soon")], json!({}), "x-request-timeout-ms"),
        (vec![], json!({"priority": "urgent"}), "priority"),
        (vec![], json!({"timeout": 0}), "timeout"),
    ] {
        let reply = Reply::read(env.send(request("x", &headers, more)).await).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)));
    }
}

#[tokio::test]
async fn a_deadline_that_passes_while_it_waits_refuses_the_request() {
    let (env, mut worker) = TestEnv::ready(ONE).await;
    let running = env.begin_request(request("a", &[], json!({})));
    let first = worker.generate().await.id;
    for (headers, more) in [
        (vec![("x-request-timeout-ms", "30")], json!({})),
        (vec![], json!({"timeout": 0.03})),
        (vec![], json!({"timeout": 0.03, "stream": true})),
    ] {
        let reply = Reply::read(env.send(request("late", &headers, more)).await).await;
        assert_eq!(reply.error(), (504, "server_error".into(), "deadline_exceeded".into()));
        assert_eq!(reply.header("retry-after"), "");
    }
    // None of them reaches the worker.
    let next = env.begin_request(request("next", &[], json!({"timeout": 3600})));
    until_waiting(&env, 1).await;
    worker.admit(first).await;
    worker.events(first, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(answer_next(&mut worker).await, "next");
    for answer in [running, next] {
        assert_eq!(soon("an answer", answer).await.unwrap().status().as_u16(), 200);
    }
    assert_eq!(env.metric("kr_admit_rejections_total{reason=\"deadline\"}").await, "3");
}

#[tokio::test]
async fn a_deadline_that_passes_while_it_runs_ends_the_answer_with_an_error() {
    let (env, mut worker) = TestEnv::ready(ONE).await;
    let timeout = [("x-request-timeout-ms", "300")];
    // While the worker prepares, while the answer is collected, and while it streams.
    for (stream, prepared) in [(false, false), (false, true), (true, true)] {
        let begun = env.begin_request(request("a", &timeout, json!({"stream": stream})));
        let id = worker.generate().await.id;
        if prepared {
            worker.admit(id).await;
            worker.events(id, vec![chunk("x")]).await;
        }
        let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
        assert_eq!(worker.next().await, Submission::Cancel(id));
        if stream {
            let events = reply.events();
            let error: Value = serde_json::from_str(events.last().unwrap()).unwrap();
            assert_eq!(error["error"]["code"], "deadline_exceeded");
            assert_eq!(events.iter().filter(|event| event.contains("error")).count(), 1);
        } else {
            assert_eq!(reply.error(), (504, "server_error".into(), "deadline_exceeded".into()));
        }
    }
    until("a free place", || env.app.admission.metrics().streams_open.get() == 0).await;
}

#[tokio::test]
async fn a_rate_that_is_used_up_is_a_429_that_says_until_when() {
    let settings = "rate_limits: {requests_per_minute: 2, tokens_per_minute: 100000}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    for _ in 0..2 {
        let begun = env.begin_request(request("a", &[], json!({})));
        answer_next(&mut worker).await;
        assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    }
    let reply = Reply::read(env.send(request("b", &[], json!({}))).await).await;
    assert_eq!(reply.error(), (429, "rate_limit_error".into(), "rate_limit_exceeded".into()));
    let error = &reply.json()["error"];
    assert_eq!(error["rate_limit"], json!({"unit": "requests", "per_minute": 2}));
    let after: u64 = reply.header("retry-after-ms").parse().unwrap();
    assert!((20_000..=30_000).contains(&after), "{after}");
    assert_eq!(env.metric("kr_admit_rejections_total{reason=\"requests_per_minute\"}").await, "1");
}

/// Three times as many come as have a place: each gets 200, or 429 and the time after which it succeeds.
#[tokio::test]
async fn overload_is_answered_and_who_comes_back_when_told_succeeds() {
    let settings = "stream_registry:\n  adaptive_limits: {max_streams: 2}\n  max_waiting: 2\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let served = tokio::spawn(async move {
        for _ in 0..12 {
            answer_next(&mut worker).await;
        }
        worker
    });
    let clients: Vec<_> = (0..12)
        .map(|n| {
            let routes = env.routes();
            tokio::spawn(async move {
                let mut turned_away = 0;
                loop {
                    let answer =
                        tower::ServiceExt::oneshot(routes.clone(), request(&n.to_string(), &[], json!({})));
                    let reply = Reply::read(answer.await.unwrap()).await;
                    if reply.status.as_u16() == 200 {
                        return turned_away;
                    }
                    assert_eq!(reply.error().2, "queue_full");
                    turned_away += 1;
                    let after = reply.header("retry-after-ms").parse().unwrap();
                    // What is under test: coming back when told.
                    sleep(Duration::from_millis(after)).await;
                }
            })
        })
        .collect();
    let mut turned_away = 0;
    for client in clients {
        turned_away += soon("an answer", client).await.unwrap();
    }
    assert!(turned_away > 0, "there was room for all");
    let _worker = soon("all of them", served).await.unwrap();
    assert_eq!(env.metric("kr_streams_open").await, "0");
}
