//! Streams: events, credit, cancel, and exactly one end.
#![allow(clippy::unwrap_used)]

#[path = "streaming/cancels.rs"]
mod cancels;
#[path = "streaming/choices.rs"]
mod choices;
#[path = "streaming/readers.rs"]
mod readers;
mod support;

use protocol::message::{Failure, FailureKind, FinishReason, StreamEventKind, Submission};
use serde_json::{Value, json};
use support::*;

fn parse(event: &str) -> Value {
    serde_json::from_str(event).unwrap_or_else(|e| panic!("{e}: {event}"))
}

#[tokio::test]
async fn a_chat_streams_role_text_reason_and_done() {
    let (env, mut worker) = TestEnv::ready("").await;
    let (id, response) = env.begin_stream(&mut worker).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    worker.events(id, vec![chunk("He"), chunk(""), chunk("llo")]).await;
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    let events = Reply::read(response).await.events();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<_> = chunks.iter().map(|c| parse(c)).collect();
    let choice = |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
    let choices: Vec<_> = chunks.iter().map(|c| c["choices"].clone()).collect();
    assert_eq!(
        choices,
        [
            choice(json!({"role": "assistant", "content": ""}), Value::Null),
            choice(json!({"content": "He"}), Value::Null),
            choice(json!({"content": "llo"}), Value::Null),
            choice(json!({}), json!("stop")),
        ]
    );
    for chunk in &chunks {
        assert_eq!((&chunk["object"], &chunk["model"]), (&json!("chat.completion.chunk"), &json!("tiny")));
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        assert!(chunk.get("usage").is_none());
    }
}

#[tokio::test]
async fn usage_comes_before_done_and_other_chunks_say_null() {
    let (env, mut worker) = TestEnv::ready("").await;
    let body = json!({
        "model": "tiny", "prompt": "x", "stream": true, "stream_options": {"include_usage": true},
    });
    let begun = env.begin(COMPLETIONS, &body);
    let id = worker.generate().await.id;
    worker.admit(id).await;
    worker.events(id, vec![chunk("a"), finished(FinishReason::Length)]).await;
    let events = Reply::read(soon("headers", begun).await.unwrap()).await.events();
    let [text, end, usage, done] = &events[..] else { panic!("{events:?}") };
    assert_eq!(done, "[DONE]");
    for chunk in [text, end] {
        assert_eq!(parse(chunk).get("usage"), Some(&Value::Null));
        assert_eq!(parse(chunk)["object"], "text_completion");
    }
    assert_eq!(parse(text)["choices"][0]["text"], "a");
    assert_eq!(parse(end)["choices"][0]["finish_reason"], "length");
    let usage = parse(usage);
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(5)));
}

#[tokio::test]
async fn no_header_goes_out_before_the_worker_has_admitted() {
    let (env, mut worker) = TestEnv::ready("").await;
    let mut begun = env.begin(CHAT, &chat(json!({"stream": true})));
    let id = worker.generate().await.id;
    assert!(futures_util::poll!(&mut begun).is_pending());
    worker.admit(id).await;
    assert_eq!(soon("headers", begun).await.unwrap().status().as_u16(), 200);
    assert_eq!(worker.next().await, Submission::Cancel(id), "the response was dropped");
}

#[tokio::test]
async fn events_of_one_step_come_in_one_piece() {
    let (env, mut worker) = TestEnv::ready("").await;
    let (id, response) = env.begin_stream(&mut worker).await;
    let mut body = response.into_body();
    let opening = piece(&mut body).await.unwrap();
    assert!(String::from_utf8_lossy(&opening).contains("assistant"));
    worker.events(id, vec![chunk("a"), chunk("b"), finished(FinishReason::Stop)]).await;
    let rest = piece(&mut body).await.unwrap();
    assert_eq!(events(std::str::from_utf8(&rest).unwrap()).len(), 4);
    assert!(piece(&mut body).await.is_none());
}

#[tokio::test]
async fn a_client_that_leaves_cancels_and_frees_its_place_in_every_phase() {
    let settings = "stream_registry:\n  adaptive_limits: {min_streams: 1, max_streams: 1}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    // While the worker prepares.
    let begun = env.begin(CHAT, &chat(json!({})));
    let id = worker.generate().await.id;
    begun.abort();
    assert_eq!(worker.next().await, Submission::Cancel(id));
    // While a whole answer is collected.
    let begun = env.begin(CHAT, &chat(json!({})));
    let id = worker.generate().await.id;
    worker.admit(id).await;
    worker.events(id, vec![chunk("x")]).await;
    begun.abort();
    assert_eq!(worker.next().await, Submission::Cancel(id));
    // While it streams.
    let (id, response) = env.begin_stream(&mut worker).await;
    let mut body = response.into_body();
    piece(&mut body).await;
    drop(body);
    assert_eq!(worker.next().await, Submission::Cancel(id));
    until("a free place", || env.app.admission.metrics().streams_open.get() == 0).await;
    // What the worker sends late is dropped.
    worker.events(id, vec![chunk("late")]).await;
    let (id, response) = env.begin_stream(&mut worker).await;
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(Reply::read(response).await.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_waiting_client_that_leaves_reaches_no_worker() {
    let settings = "stream_registry:\n  adaptive_limits: {min_streams: 1, max_streams: 1}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let (first, response) = env.begin_stream(&mut worker).await;
    let waiting = env.begin(CHAT, &chat(json!({})));
    until("a waiting request", || env.app.admission.metrics().queue_length.get() == 1).await;
    waiting.abort();
    until("an empty queue", || env.app.admission.metrics().queue_length.get() == 0).await;
    drop(response);
    assert_eq!(worker.next().await, Submission::Cancel(first));
    let (second, _response) = env.begin_stream(&mut worker).await;
    assert_ne!(first, second);
}

#[tokio::test]
async fn reading_gives_credit_back_and_not_reading_does_not() {
    let (env, mut worker) = TestEnv::ready("stream_registry:\n  credit_chunks: 8\n").await;
    let (slow, slow_response) = env.begin_stream(&mut worker).await;
    let (fast, fast_response) = env.begin_stream(&mut worker).await;
    for id in [slow, fast] {
        worker.events(id, (0..8).map(|_| chunk("x")).collect()).await;
    }
    // The fast one reads all, and its credit comes back; the slow one's would have come before it.
    let mut fast_body = fast_response.into_body();
    let mut seen = String::new();
    while seen.matches("\"content\":\"x\"").count() < 8 {
        seen.push_str(std::str::from_utf8(&piece(&mut fast_body).await.unwrap()).unwrap());
    }
    let mut returned = 0;
    while returned < 8 {
        match worker.next().await {
            Submission::Credit { id, chunks } if id == fast => returned += chunks,
            other => panic!("{other:?}"),
        }
    }
    // The slow one loses nothing.
    worker.events(fast, vec![finished(FinishReason::Stop)]).await;
    worker.events(slow, vec![finished(FinishReason::Stop)]).await;
    let events = Reply::read(slow_response).await.events();
    assert_eq!((events.len(), events.last().unwrap().as_str()), (1 + 8 + 1 + 1, "[DONE]"));
    let rest = piece(&mut fast_body).await.unwrap();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_failure_in_mid_stream_is_one_error_event_and_no_done() {
    let (env, mut worker) = TestEnv::ready("").await;
    let (id, response) = env.begin_stream(&mut worker).await;
    let failure = Failure { kind: FailureKind::Internal, param: None, message: "broke".into() };
    worker.events(id, vec![chunk("a"), StreamEventKind::Failed(failure)]).await;
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    let events = Reply::read(response).await.events();
    let [_role, _text, error] = &events[..] else { panic!("{events:?}") };
    assert_eq!(parse(error)["error"]["message"], "broke");
    assert_eq!(parse(error)["error"]["code"], "worker_error");
}

#[tokio::test]
async fn a_worker_that_overspends_loses_that_stream_and_is_told() {
    let (env, mut worker) = TestEnv::ready("stream_registry:\n  credit_chunks: 4\n").await;
    let (id, response) = env.begin_stream(&mut worker).await;
    worker.events(id, (0..5).map(|_| chunk("x")).collect()).await;
    assert_eq!(worker.next().await, Submission::Cancel(id));
    let events = Reply::read(response).await.events();
    assert_eq!(events.len(), 1 + 4 + 1);
    assert_eq!(parse(events.last().unwrap())["error"]["code"], "worker_error");
}

#[tokio::test]
async fn many_requests_at_once_are_batched_and_all_answered() {
    let (env, mut worker) = TestEnv::ready("workers:\n  ring_bytes: 65536\n").await;
    let text = "long ".repeat(20_000);
    let begun: Vec<_> =
        (0..50).map(|_| env.begin(COMPLETIONS, &json!({"model": "tiny", "prompt": text}))).collect();
    for _ in 0..50 {
        let id = worker.generate().await.id;
        worker.admit(id).await;
        worker.events(id, vec![chunk(&text), finished(FinishReason::Stop)]).await;
    }
    for answer in begun {
        let answer = Reply::read(soon("an answer", answer).await.unwrap()).await.json();
        assert_eq!(answer["choices"][0]["text"], text);
    }
    let frames: u64 = env
        .metric("kr_ipc_frames_total{model=\"tiny\",worker=\"0\",direction=\"to_worker\"}")
        .await
        .parse()
        .unwrap();
    assert!(frames < 50, "{frames} frames for 50 requests");
    assert_eq!(env.metric("kr_generation_tokens_total{").await, "50");
    assert_eq!(env.metric("kr_time_to_first_token_seconds_count{").await, "50");
}

/// Short, since it is what these tests wait for. More comments than are waited for do no harm.
const KEEPALIVE: &str = "server: {sse_keepalive_ms: 300}\n";
const COMMENT: &[u8] = b": keep-alive\n\n";

/// What a body has to the end, without comments.
async fn rest(mut body: axum::body::Body) -> Vec<String> {
    let mut text = String::new();
    while let Some(piece) = piece(&mut body).await {
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    events(&text.replace(std::str::from_utf8(COMMENT).unwrap(), ""))
}

#[tokio::test]
async fn a_silent_stream_sends_comments() {
    let (env, mut worker) = TestEnv::ready(KEEPALIVE).await;
    let (id, response) = env.begin_stream(&mut worker).await;
    let mut body = response.into_body();
    let mut comments = 0;
    while comments < 3 {
        let piece = piece(&mut body).await.unwrap();
        comments += usize::from(piece == COMMENT);
        assert!(piece == COMMENT || piece.starts_with(b"data: "));
    }
    worker.events(id, vec![chunk("a"), finished(FinishReason::Stop)]).await;
    let events = rest(body).await;
    assert_eq!((events.len(), events.last().unwrap().as_str()), (3, "[DONE]"));
}

#[tokio::test]
async fn a_stream_that_waits_for_long_gets_its_header_and_comments() {
    let settings = format!("{KEEPALIVE}stream_registry: {{adaptive_limits: {{max_streams: 1}}}}\n");
    let (env, mut worker) = TestEnv::ready(&settings).await;
    let (first, held) = env.begin_stream(&mut worker).await;
    // In the gateway's queue, and then in the worker's.
    let begun = env.begin(CHAT, &chat(json!({"stream": true})));
    let mut body = soon("headers", begun).await.unwrap().into_body();
    assert_eq!(piece(&mut body).await.unwrap(), COMMENT);
    assert_eq!(piece(&mut body).await.unwrap(), COMMENT);
    drop(held);
    assert_eq!(worker.next().await, Submission::Cancel(first));
    assert_eq!(piece(&mut body).await.unwrap(), COMMENT);
    let id = worker.generate().await.id;
    assert_eq!(piece(&mut body).await.unwrap(), COMMENT);
    worker.admit(id).await;
    worker.events(id, vec![chunk("a"), finished(FinishReason::Stop)]).await;
    let events = rest(body).await;
    assert_eq!((events.len(), events.last().unwrap().as_str()), (4, "[DONE]"));
}

#[tokio::test]
async fn an_error_after_the_header_is_an_event() {
    let (env, mut worker) = TestEnv::ready(KEEPALIVE).await;
    let begun = env.begin(CHAT, &chat(json!({"stream": true})));
    let id = worker.generate().await.id;
    let mut body = soon("headers", begun).await.unwrap().into_body();
    assert_eq!(piece(&mut body).await.unwrap(), COMMENT);
    let failure =
        Failure { kind: FailureKind::ContextLengthExceeded, param: None, message: "too long".into() };
    worker.events(id, vec![StreamEventKind::Failed(failure)]).await;
    let events = rest(body).await;
    let [error] = &events[..] else { panic!("{events:?}") };
    assert_eq!(parse(error)["error"]["code"], "context_length_exceeded");
    until("a free place", || env.app.admission.metrics().streams_open.get() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_with_a_header_is_forgotten() {
    let settings = format!("{KEEPALIVE}stream_registry: {{adaptive_limits: {{max_streams: 1}}}}\n");
    let (env, mut worker) = TestEnv::ready(&settings).await;
    let (first, held) = env.begin_stream(&mut worker).await;
    let waiting = soon("headers", env.begin(CHAT, &chat(json!({"stream": true})))).await.unwrap();
    assert_eq!(env.app.admission.metrics().queue_length.get(), 1);
    drop(waiting);
    assert_eq!(env.app.admission.metrics().queue_length.get(), 0);
    drop(held);
    assert_eq!(worker.next().await, Submission::Cancel(first));
}
