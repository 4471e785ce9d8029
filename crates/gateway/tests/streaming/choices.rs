//! Several choices of one request: each is a stream of the worker, and the client sees one answer.

use axum::response::Response;
use protocol::{
    ids::RequestId,
    message::{Answer, OperationKind},
};
use tokio::task::JoinHandle;

use super::*;

/// A request for several choices, and the worker's ids of them, in order.
async fn begin(
    worker: &mut FakeWorker,
    env: &TestEnv,
    body: &Value,
    count: u64,
) -> (JoinHandle<Response>, Vec<RequestId>) {
    let begun = env.begin(COMPLETIONS, body);
    let mut ids = Vec::new();
    for index in 0..count {
        let generate = worker.generate().await;
        assert_eq!(generate.sampling.seed, 7 + index, "each has a seed of its own");
        ids.push(generate.id);
    }
    for id in &ids {
        worker.admit(*id).await;
    }
    (begun, ids)
}

fn body(more: Value) -> Value {
    let mut body = json!({"model": "tiny", "prompt": "x", "seed": 7});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_stream_names_the_choice_of_each_chunk_and_ends_once() {
    let (env, mut worker) = TestEnv::ready("").await;
    let asked = body(json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}}));
    let (begun, ids) = begin(&mut worker, &env, &asked, 2).await;
    worker.events(ids[1], vec![chunk("x"), finished(FinishReason::Length)]).await;
    worker.events(ids[0], vec![chunk("a"), chunk("b"), finished(FinishReason::Stop)]).await;
    let events = Reply::read(soon("headers", begun).await.unwrap()).await.events();
    assert_eq!(events.iter().filter(|event| *event == "[DONE]").count(), 1);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|event| parse(event)).collect();
    let (usage, chunks) = chunks.split_last().unwrap();
    let of = |index: u64| {
        let choices =
            chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index);
        let choices: Vec<_> = choices.collect();
        let text: String = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        (text, choices.last().unwrap()["finish_reason"].clone())
    };
    assert_eq!(of(0), ("ab".into(), json!("stop")));
    assert_eq!(of(1), ("x".into(), json!("length")));
    assert!(chunks.iter().all(|chunk| chunk["id"] == usage["id"]));
    let usage = &usage["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(3), &json!(4)));
    assert_eq!(usage["total_tokens"], 7);
}

#[tokio::test]
async fn a_whole_answer_has_all_choices_in_order() {
    let (env, mut worker) = TestEnv::ready("").await;
    let (begun, ids) = begin(&mut worker, &env, &body(json!({"n": 3})), 3).await;
    for (id, text) in ids.iter().zip(["a", "b", "c"]).rev() {
        worker.events(*id, vec![chunk(text), finished(FinishReason::Stop)]).await;
    }
    let answer = Reply::read(soon("an answer", begun).await.unwrap()).await.json();
    let choices = answer["choices"].as_array().unwrap();
    let found: Vec<_> =
        choices.iter().map(|it| (it["index"].as_u64().unwrap(), it["text"].as_str().unwrap())).collect();
    assert_eq!(found, [(0, "a"), (1, "b"), (2, "c")]);
    assert_eq!(answer["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn a_client_that_goes_cancels_all_choices() {
    let (env, mut worker) = TestEnv::ready("").await;
    let (begun, ids) = begin(&mut worker, &env, &body(json!({"n": 2, "stream": true})), 2).await;
    let response = soon("headers", begun).await.unwrap();
    drop(response);
    let mut cancelled = Vec::new();
    for _ in &ids {
        let Submission::Cancel(id) = worker.next().await else { panic!("not a cancel") };
        cancelled.push(id);
    }
    cancelled.sort_unstable_by_key(|id| id.0);
    assert_eq!(cancelled, ids);
}

#[tokio::test]
async fn one_that_is_refused_refuses_all() {
    let (env, mut worker) = TestEnv::ready("").await;
    let begun = env.begin(COMPLETIONS, &body(json!({"n": 2})));
    let (one, two) = (worker.generate().await.id, worker.generate().await.id);
    worker.admit(one).await;
    let failure =
        Failure { kind: FailureKind::InvalidRequest, param: Some("prompt".into()), message: "no".into() };
    worker.events(two, vec![StreamEventKind::Failed(failure)]).await;
    let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
    assert_eq!(reply.status.as_u16(), 400);
    assert_eq!(worker.next().await, Submission::Cancel(one));
}

#[tokio::test]
async fn more_than_the_server_can_ever_run_are_refused() {
    let (env, _worker) = TestEnv::ready("stream_registry: {adaptive_limits: {max_streams: 3}}\n").await;
    let reply = Reply::read(env.begin(COMPLETIONS, &body(json!({"n": 4}))).await.unwrap()).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("n")));
}

#[tokio::test]
async fn an_echoed_prompt_comes_before_each_choice() {
    let (env, mut worker) = TestEnv::ready("").await;
    let (begun, ids) = begin(&mut worker, &env, &body(json!({"n": 2, "echo": true})), 2).await;
    for id in ids {
        worker.events(id, vec![chunk("a"), finished(FinishReason::Stop)]).await;
    }
    let answer = Reply::read(soon("an answer", begun).await.unwrap()).await.json();
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][1]["text"]), (&json!("xa"), &json!("xa")));

    let (begun, ids) = begin(&mut worker, &env, &body(json!({"echo": true, "stream": true})), 1).await;
    worker.events(ids[0], vec![chunk("a"), finished(FinishReason::Stop)]).await;
    let events = Reply::read(soon("headers", begun).await.unwrap()).await.events();
    let texts: Vec<_> = events[..3].iter().map(|event| parse(event)["choices"][0]["text"].clone()).collect();
    assert_eq!(texts, [json!("x"), json!("a"), json!("")]);
}

#[tokio::test]
async fn an_echo_of_tokens_is_their_text() {
    let (env, mut worker) = TestEnv::ready("").await;
    let (begun, ids) = begin(&mut worker, &env, &body(json!({"prompt": [5, 6], "echo": true})), 1).await;
    let operation = worker.operation().await;
    let asked = OperationKind::Detokenize { tokens: vec![5, 6], skip_special_tokens: false };
    assert_eq!(operation.kind, asked);
    worker.events(operation.id, vec![StreamEventKind::Answered(Answer::Text("xy".into()))]).await;
    worker.events(ids[0], vec![chunk("a"), finished(FinishReason::Stop)]).await;
    let answer = Reply::read(soon("an answer", begun).await.unwrap()).await.json();
    assert_eq!(answer["choices"][0]["text"], "xya");
}
