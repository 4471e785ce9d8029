//! Requests and answers, in OpenAI's shape.
#![allow(clippy::unwrap_used)]

#[path = "http/access.rs"]
mod access;
#[path = "http/admission.rs"]
mod admission;
#[path = "http/channels.rs"]
mod channels;
#[path = "http/connections.rs"]
mod connections;
#[path = "http/headers.rs"]
mod headers;
#[path = "http/memory.rs"]
mod memory;
#[path = "http/monitoring.rs"]
mod monitoring;
#[path = "http/operations.rs"]
mod operations;
#[path = "http/reload.rs"]
mod reload;
#[path = "http/slow_readers.rs"]
mod slow_readers;
mod support;
#[path = "http/tls.rs"]
mod tls;

use axum::{body::Body, http::Request};
use protocol::message::{Failure, FailureKind, FinishReason, Heartbeat, Prompt, Report, StreamEventKind};
use serde_json::{Value, json};
use support::*;

fn failed(kind: FailureKind) -> StreamEventKind {
    StreamEventKind::Failed(Failure { kind, param: Some("messages".into()), message: "too long".into() })
}

#[tokio::test]
async fn a_chat_is_answered_whole() {
    let (env, mut worker) = TestEnv::ready("").await;
    let begun = env.begin(CHAT, &chat(json!({"max_tokens": 9, "stop": "x"})));
    let generate = worker.generate().await;
    assert_eq!((generate.max_tokens, generate.stop.len(), generate.credit), (Some(9), 1, 64));
    worker.admit(generate.id).await;
    worker.events(generate.id, vec![chunk("He"), chunk(""), chunk("llo")]).await;
    worker.events(generate.id, vec![finished(FinishReason::Stop)]).await;
    let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
    let mut answer = reply.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    answer["id"] = Value::Null;
    answer["created"] = Value::Null;
    let expected = json!({
        "id": null, "object": "chat.completion", "created": null, "model": "tiny",
        "system_fingerprint": "fp_0123456789ab",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": null},
            "logprobs": null, "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    });
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_request_can_name_the_draft_model_that_is_configured_and_no_other() {
    let (env, mut worker) = TestEnv::ready("speculation:\n  draft_models: {tiny: small}\n").await;
    let body = |draft: &str| json!({"model": "tiny", "prompt": [5, 6], "draft_model": draft});
    let begun = env.begin(COMPLETIONS, &body("small"));
    let generate = worker.generate().await;
    worker.admit(generate.id).await;
    worker.events(generate.id, vec![chunk("ok"), finished(FinishReason::Length)]).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    let refused = Reply::read(soon("a refusal", env.begin(COMPLETIONS, &body("other"))).await.unwrap()).await;
    assert_eq!(refused.status.as_u16(), 400);
    let error = &refused.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["param"], "draft_model");
    assert!(message.contains("`speculation.draft_models`") && message.contains("`small`"), "{message}");
}

#[tokio::test]
async fn a_completion_is_answered_whole() {
    let (env, mut worker) = TestEnv::ready("").await;
    let begun = env.begin(COMPLETIONS, &json!({"model": "tiny", "prompt": [5, 6]}));
    let generate = worker.generate().await;
    assert_eq!((generate.prompt, generate.max_tokens), (Prompt::Tokens(vec![5, 6]), Some(16)));
    worker.admit(generate.id).await;
    worker.events(generate.id, vec![chunk("ok"), finished(FinishReason::Length)]).await;
    let answer = Reply::read(soon("an answer", begun).await.unwrap()).await.json();
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(
        answer["choices"],
        json!([{"text": "ok", "index": 0, "logprobs": null, "finish_reason": "length"}])
    );
}

#[tokio::test]
async fn errors_have_openais_shape_and_their_status() {
    let (env, _worker) = TestEnv::ready("server:\n  max_body_bytes: 2048\n").await;
    let invalid = "invalid_request_error";
    let raw = |method: &str, path: &str, media_type: &str, body: Vec<u8>| {
        let request = Request::builder().method(method).uri(path).header("content-type", media_type);
        request.body(Body::from(body)).unwrap()
    };
    let json_body =
        |body: Value| raw("POST", CHAT, "application/json; charset=utf-8", body.to_string().into());
    for (request, status, code) in [
        (raw("GET", "/v2/chat", "text/plain", vec![]), 404, "unknown_url"),
        (raw("GET", CHAT, "text/plain", vec![]), 405, "method_not_allowed"),
        (raw("POST", "/v1/models", "text/plain", vec![]), 405, "method_not_allowed"),
        (raw("POST", CHAT, "text/plain", b"{}".to_vec()), 415, "unsupported_media_type"),
        (raw("POST", CHAT, "application/json", vec![b' '; 2049]), 413, "body_too_large"),
        (raw("POST", CHAT, "application/json", b"{".to_vec()), 400, "invalid_json"),
        (raw("POST", CHAT, "application/json", b"\"\xff\"".to_vec()), 400, "invalid_json"),
        (raw("POST", CHAT, "application/json", vec![b'['; 2000]), 400, "invalid_value"),
        (
            raw("POST", CHAT, "application/json", [b"{\"x\":".as_slice(), &[b'['; 2000]].concat()),
            400,
            "invalid_json",
        ),
        (json_body(chat(json!({"temperature": 3}))), 400, "invalid_value"),
        (json_body(chat(json!({"messages": []}))), 400, "invalid_value"),
        (json_body(chat(json!({"echo": true}))), 400, "unsupported_parameter"),
        (json_body(chat(json!({"n": 9}))), 400, "invalid_value"),
        (json_body(chat(json!({"model": "other"}))), 404, "model_not_found"),
        (raw("GET", "/v1/models/org/other", "text/plain", vec![]), 404, "model_not_found"),
    ] {
        let reply = Reply::read(env.send(request).await).await;
        assert_eq!(reply.error(), (status, invalid.into(), code.into()), "{}", reply.text);
    }
    assert_eq!(env.metric("kr_http_requests_total{route=\"unknown\",code=\"404\"}").await, "1");
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_a_400_before_any_header_also_for_streams() {
    let (env, mut worker) = TestEnv::ready("").await;
    for stream in [false, true] {
        let begun = env.begin(CHAT, &chat(json!({"stream": stream})));
        let id = worker.generate().await.id;
        worker.events(id, vec![failed(FailureKind::ContextLengthExceeded)]).await;
        let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
        let expected = (400, "invalid_request_error".to_owned(), "context_length_exceeded".to_owned());
        assert_eq!(reply.error(), expected);
        assert_eq!(reply.json()["error"]["param"], "messages");
    }
}

#[tokio::test]
async fn models_health_and_metrics_tell_the_truth() {
    let env = TestEnv::start("models:\n  on_demand: off\nstream_registry:\n  wait_timeout_ms: 0\n");
    let mut worker = env.next_worker().await;
    assert_eq!(env.get("/livez").await.status.as_u16(), 200);
    let unready = env.get("/readyz").await;
    assert_eq!((unready.status.as_u16(), &unready.json()["ready"]), (503, &json!(false)));
    let health = env.get("/health").await;
    assert_eq!((health.status.as_u16(), health.json()), (503, json!({"status": "unavailable"})));
    let loading = env.get("/v1/models").await.json();
    assert_eq!(
        (&loading["data"][0]["id"], &loading["data"][0]["state"]),
        (&json!("tiny"), &json!("loading"))
    );
    assert_eq!(env.get("/v1/models/tiny").await.json()["context_length"], Value::Null);
    let refused = env.post(CHAT, &chat(json!({}))).await;
    assert_eq!(refused.error(), (503, "server_error".into(), "no_worker".into()));
    assert_eq!((refused.header("retry-after"), refused.header("retry-after-ms")), ("2", "2000"));

    worker.send(&Report::Ready(model_info("tiny"))).await;
    until("a ready worker", || env.app.registry.is_ready()).await;
    let ready = env.get("/readyz").await;
    assert_eq!(ready.status.as_u16(), 200);
    let status = &ready.json()["workers"][0];
    assert_eq!(
        (&status["worker"], &status["state"], &status["streams"]),
        (&json!(0), &json!("ready"), &json!(0))
    );
    assert_eq!(status["running"], 0);
    let heartbeat = Heartbeat {
        step: 7,
        runnable: 2,
        waiting: 1,
        kv_tokens: 25,
        kv_capacity: 100,
        ..Heartbeat::default()
    };
    worker.send(&Report::Heartbeat(heartbeat)).await;
    until("its heartbeat", || env.app.registry.workers()[0].work.as_ref().is_some_and(|w| w.step == 7)).await;
    assert_eq!(env.get("/readyz").await.json()["workers"][0]["running"], 2);
    let mut list = env.get("/v1/models").await.json();
    assert!(list["data"][0]["created"].as_u64().unwrap() > 1_700_000_000);
    list["data"][0]["created"] = Value::Null;
    let expected = json!({
        "id": "tiny", "object": "model", "created": null, "owned_by": "kr-serve", "root": "tiny",
        "max_model_len": 128, "parent": null, "state": "ready", "reason": null, "workers": 1, "ready_workers": 1, "size_bytes": 7000, "context_length": 128, "architecture": "llama",
        "task": "generate", "embedding_length": null, "draft_model": null, "digest": "0123456789abcdef",
    });
    assert_eq!(list, json!({"object": "list", "data": [expected]}));
    for id in ["tiny", "0123456789abcdef"] {
        assert_eq!(env.get(&format!("/v1/models/{id}")).await.json()["id"], "tiny");
    }
    let health = env.get("/health").await;
    assert_eq!((health.status.as_u16(), health.json()), (200, json!({"status": "ok"})));
    let state = |state: &str| format!("kr_worker_state{{model=\"tiny\",worker=\"0\",state=\"{state}\"}}");
    assert_eq!(env.metric(&state("ready")).await, "1");
    assert_eq!(env.metric(&state("loading")).await, "0");

    env.app.admission.close();
    assert_eq!(env.get("/health").await.status.as_u16(), 503);
    let closing = env.get("/readyz").await;
    assert_eq!((closing.status.as_u16(), &closing.json()["shutting_down"]), (503, &json!(true)));
    assert_eq!(env.post(CHAT, &chat(json!({}))).await.error().2, "shutting_down");
}

#[tokio::test]
async fn a_full_queue_is_a_429_that_says_when_to_come_back() {
    let settings =
        "stream_registry:\n  adaptive_limits: {min_streams: 1, max_streams: 1}\n  max_waiting: 1\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let running = env.begin(CHAT, &chat(json!({})));
    let first = worker.generate().await;
    let waiting = env.begin(CHAT, &chat(json!({})));
    until("a full queue", || env.app.admission.metrics().queue_length.get() == 1).await;

    let reply = env.post(CHAT, &chat(json!({"stream": true}))).await;
    assert_eq!(reply.error(), (429, "rate_limit_error".into(), "queue_full".into()));
    assert_eq!((reply.header("retry-after"), reply.header("retry-after-ms")), ("1", "1000"));

    for (begun, generate) in [(running, Some(first)), (waiting, None)] {
        let id = match generate {
            Some(generate) => generate.id,
            None => worker.generate().await.id,
        };
        worker.admit(id).await;
        worker.events(id, vec![finished(FinishReason::Stop)]).await;
        assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    }
    assert_eq!(env.metric("kr_admission_rejections_total{reason=\"queue_full\"}").await, "1");
    assert_eq!(env.metric("kr_requests_running{model=\"tiny\"}").await, "0");
}
