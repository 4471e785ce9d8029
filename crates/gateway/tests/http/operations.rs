//! Operations: from their JSON to a worker and back.

use axum::http::HeaderValue;
use protocol::message::{
    Answer, Embeddings, Failure, FailureKind, Operation, OperationKind, PieceForm, Pieces, Prompt,
    StreamEventKind, Submission, TokenizeInput, Truncation,
};
use serde_json::{Value, json};

use crate::support::*;

fn text(text: &str) -> TokenizeInput {
    TokenizeInput::new(Prompt::Text(text.into()))
}

fn tokenize() -> Value {
    json!({"model": "tiny", "prompt": "hi"})
}

/// The answer to a request for which the worker says `answer`, and what the worker was asked for.
async fn ask(
    env: &TestEnv,
    worker: &mut FakeWorker,
    path: &str,
    body: &Value,
    answer: Answer,
) -> (OperationKind, Value) {
    let begun = env.begin(path, body);
    let Operation { id, kind } = worker.operation().await;
    worker.events(id, vec![StreamEventKind::Answered(answer)]).await;
    let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
    (kind, reply.json())
}

async fn error(response: tokio::task::JoinHandle<axum::response::Response>) -> (u16, String) {
    let reply = Reply::read(soon("an answer", response).await.unwrap()).await;
    let (status, _, code) = reply.error();
    assert_eq!(reply.headers.contains_key("retry-after-ms"), matches!(status, 429 | 503));
    (status, code)
}

#[tokio::test]
async fn every_path_asks_the_worker_and_answers_in_its_form() {
    let (env, mut worker) = TestEnv::ready("").await;
    let tokens = || Answer::Tokens(vec![5, 6]);
    for path in ["/v1/tokenize", "/tokenize"] {
        let (kind, answer) = ask(&env, &mut worker, path, &tokenize(), tokens()).await;
        assert_eq!(kind, OperationKind::Tokenize(text("hi")));
        let expected = json!({"count": 2, "max_model_len": 128, "tokens": [5, 6], "token_strs": null});
        assert_eq!(answer, expected);
        // Without a model: there is only one.
        let mut pieces = Pieces::default();
        pieces.push(5, b"hi");
        let body = json!({"content": "hi", "with_pieces": true});
        let (kind, answer) = ask(&env, &mut worker, path, &body, Answer::Pieces(pieces)).await;
        let input = TokenizeInput { add_special_tokens: false, ..text("hi") };
        assert_eq!(kind, OperationKind::Pieces { input, form: PieceForm::Bytes });
        assert_eq!(answer, json!({"tokens": [{"id": 5, "piece": "hi"}]}));
    }
    let kind = OperationKind::Detokenize { tokens: vec![5, 6], skip_special_tokens: false };
    for path in ["/v1/detokenize", "/detokenize"] {
        for (body, name) in
            [(json!({"model": "tiny", "tokens": [5, 6]}), "prompt"), (json!({"tokens": [5, 6]}), "content")]
        {
            let answered = ask(&env, &mut worker, path, &body, Answer::Text("hi".into())).await;
            assert_eq!(answered, (kind.clone(), json!({ name: "hi" })));
        }
    }
    let body = json!({"messages": chat(json!({}))["messages"]});
    let (kind, answer) = ask(&env, &mut worker, "/apply-template", &body, Answer::Text("<hi>".into())).await;
    assert!(matches!(kind, OperationKind::Render { add_generation_prompt: true, .. }), "{kind:?}");
    assert_eq!(answer, json!({"prompt": "<hi>"}));
    let body = json!({"model": "tiny", "draft_model": "small"});
    let compatible =
        Answer::DraftCheck { compatible: true, reason: None, vocab_size: 9, draft_vocab_size: 8 };
    let (kind, answer) = ask(&env, &mut worker, "/v1/check_draft", &body, compatible).await;
    assert_eq!(kind, OperationKind::CheckDraft { draft: "small".into() });
    assert_eq!((&answer["compatible"], &answer["reason"]), (&json!(true), &Value::Null));
    let counted = env.metric("kr_operate_results_total{kind=\"tokenize\",result=\"answered\"}").await;
    assert_eq!(counted, "2");
    assert_eq!(env.metric("kr_operate_running").await, "0");
}

#[tokio::test]
async fn operations_that_come_together_share_a_frame_and_fail_alone() {
    let (env, mut worker) = TestEnv::ready("").await;
    let begun: Vec<_> = (0..20).map(|_| env.begin("/tokenize", &tokenize())).collect();
    until("all to be on their way", || {
        env.app.registry.links().iter().map(|link| link.open_operations()).sum::<usize>() == 20
    })
    .await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(worker.operation().await.id);
    }
    for id in ids.iter().skip(1) {
        worker.events(*id, vec![StreamEventKind::Answered(Answer::Tokens(vec![1]))]).await;
    }
    let failure = Failure {
        kind: FailureKind::ContextLengthExceeded,
        param: Some("prompt".into()),
        message: "too long".into(),
    };
    worker.events(ids[0], vec![StreamEventKind::Failed(failure)]).await;
    let mut failed = 0;
    for begun in begun {
        let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
        match reply.status.as_u16() {
            200 => {}
            _ => {
                failed += 1;
                assert_eq!(reply.error().2, "context_length_exceeded");
                assert_eq!(reply.json()["error"]["param"], "prompt");
            }
        }
    }
    assert_eq!(failed, 1);
}

#[tokio::test]
async fn what_can_not_be_asked_for_reaches_no_worker() {
    let (env, _worker) = TestEnv::ready("").await;
    for (path, body, expected) in [
        ("/tokenize", json!({"model": "other", "prompt": "a"}), (404, "model_not_found")),
        ("/v1/tokenize", json!({"model": "tiny"}), (400, "invalid_value")),
        ("/v1/tokenize", json!({"model": "tiny", "prompt": "a", "x": 1}), (400, "unknown_parameter")),
        ("/detokenize", json!({"tokens": "a"}), (400, "invalid_value")),
        ("/v1/check_draft", json!({"model": "tiny"}), (400, "invalid_value")),
    ] {
        let (status, _, code) = env.post(path, &body).await.error();
        assert_eq!((status, code.as_str()), expected, "{path} {body}");
    }
    assert_eq!(env.get("/tokenize").await.status.as_u16(), 405);
    env.app.admission.close();
    assert_eq!(env.post("/tokenize", &tokenize()).await.error().2, "shutting_down");
}

#[tokio::test]
async fn without_a_name_there_must_be_exactly_one_model() {
    let (env, mut worker) = TestEnv::ready("").await;
    let models = env.app.models.clone();
    let loading = tokio::spawn(async move { models.load("other", None).await });
    let mut other = env.next_ready_worker().await;
    soon("a load", loading).await.unwrap().unwrap();
    let reply = env.post("/detokenize", &json!({"tokens": [1]})).await;
    assert_eq!(reply.error(), (400, "invalid_request_error".into(), "invalid_value".into()));
    let error = &reply.json()["error"];
    assert_eq!(error["param"], "model");
    assert!(error["message"].as_str().unwrap().contains("`tiny`, `other`"), "{error}");
    let body = json!({"model": "other", "content": "hi"});
    ask(&env, &mut other, "/tokenize", &body, Answer::Tokens(vec![1])).await;
    ask(&env, &mut worker, "/tokenize", &tokenize(), Answer::Tokens(vec![1])).await;
}

/// The operation that one of the workers was given, and this worker first.
async fn given(mut workers: Vec<FakeWorker>) -> (Operation, Vec<FakeWorker>) {
    let (operation, index) = {
        let nexts = workers.iter_mut().map(|worker| Box::pin(worker.operation()));
        let (operation, index, _others) = soon("an operation", futures_util::future::select_all(nexts)).await;
        (operation, index)
    };
    workers.swap(0, index);
    (operation, workers)
}

#[tokio::test]
async fn an_operation_whose_worker_dies_is_done_by_another_and_that_once() {
    let env = TestEnv::start(
        "workers: {count: 2, restart_backoff_ms: 60000, max_restart_backoff_ms: 60000}\n\
         operations: {wait_timeout_ms: 200}\n",
    );
    let workers = vec![env.next_ready_worker().await, env.next_ready_worker().await];
    let begun = env.begin("/tokenize", &tokenize());
    let (operation, mut workers) = given(workers).await;
    workers.remove(0).die();
    let again = workers[0].operation().await;
    assert_eq!(again.kind, operation.kind);
    workers[0].events(again.id, vec![StreamEventKind::Answered(Answer::Tokens(vec![1]))]).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    assert_eq!(env.metric("kr_operate_retries_total").await, "1");

    // There is no other worker now.
    let begun = env.begin("/tokenize", &tokenize());
    workers[0].operation().await;
    workers.remove(0).die();
    let (status, code) = error(begun).await;
    assert_eq!(status, 503, "{code}");
}

#[tokio::test]
async fn places_are_bounded_given_in_order_and_free_again() {
    let settings = "operations: {max_in_flight: 1, max_waiting: 1}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let body = |prompt: &str| json!({"model": "tiny", "prompt": prompt});
    let first = env.begin("/tokenize", &body("first"));
    let running = worker.operation().await;
    let second = env.begin("/tokenize", &body("second"));
    soon("an operation that waits", async {
        while env.metric("kr_operate_waiting").await != "1" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(error(env.begin("/tokenize", &body("third"))).await, (429, "queue_full".into()));
    // A stream needs no place of an operation.
    let (stream, _response) = env.begin_stream(&mut worker).await;
    worker.events(running.id, vec![StreamEventKind::Answered(Answer::Tokens(vec![1]))]).await;
    assert_eq!(soon("an answer", first).await.unwrap().status().as_u16(), 200);
    let next = worker.operation().await;
    assert_eq!(next.kind, OperationKind::Tokenize(text("second")));
    // A client that leaves gives its place back, and the worker is told.
    second.abort();
    assert_eq!(worker.next().await, Submission::Cancel(next.id));
    let last = env.begin("/tokenize", &body("last"));
    let Operation { id, kind } = worker.operation().await;
    assert_eq!(kind, OperationKind::Tokenize(text("last")));
    worker.events(id, vec![StreamEventKind::Answered(Answer::Tokens(vec![1]))]).await;
    assert_eq!(soon("an answer", last).await.unwrap().status().as_u16(), 200);
    assert_ne!(stream, id);
}

#[tokio::test]
async fn a_worker_that_answers_with_something_else_is_a_defect() {
    let (env, mut worker) = TestEnv::ready("").await;
    let begun = env.begin("/tokenize", &tokenize());
    let id = worker.operation().await.id;
    worker.events(id, vec![StreamEventKind::Answered(Answer::Count(1))]).await;
    assert_eq!(error(begun).await, (500, "internal_error".into()));
    let begun = env.begin("/tokenize", &tokenize());
    let id = worker.operation().await.id;
    worker.events(id, vec![chunk("text")]).await;
    assert_eq!(error(begun).await, (500, "worker_error".into()));
    assert_eq!(worker.next().await, Submission::Cancel(id));
}

#[tokio::test]
async fn a_draft_model_that_is_not_stored_is_not_found() {
    let (env, mut worker) = TestEnv::ready("").await;
    for (kind, expected) in [
        (FailureKind::UnknownModel, (404, "model_not_found")),
        (FailureKind::DamagedModel, (422, "model_damaged")),
    ] {
        let begun = env.begin("/v1/check_draft", &json!({"model": "tiny", "draft_model": "d"}));
        let id = worker.operation().await.id;
        let failure = Failure { kind, param: Some("draft_model".into()), message: "no".into() };
        worker.events(id, vec![StreamEventKind::Failed(failure)]).await;
        let (status, code) = error(begun).await;
        assert_eq!((status, code.as_str()), expected);
    }
}

#[tokio::test]
async fn a_deadline_that_passes_ends_an_operation_in_the_worker_too() {
    let (env, mut worker) = TestEnv::ready("").await;
    let request = |timeout: &'static str| {
        let mut request = post("/tokenize", &tokenize());
        request.headers_mut().insert("x-request-timeout-ms", HeaderValue::from_static(timeout));
        request
    };
    let begun = env.begin_request(request("300"));
    let Operation { id, .. } = worker.operation().await;
    assert_eq!(error(begun).await, (504, "deadline_exceeded".into()));
    assert_eq!(worker.next().await, Submission::Cancel(id));
    assert_eq!(error(env.begin_request(request("soon"))).await.0, 400);
}

fn embeddings(vectors: &[(u32, f32)]) -> Answer {
    let mut embeddings = Embeddings::default();
    vectors.iter().for_each(|(tokens, value)| embeddings.push(*tokens, &[*value, 0.5]));
    Answer::Embeddings(embeddings)
}

#[tokio::test]
async fn inputs_to_embed_are_divided_and_their_vectors_come_back_in_order() {
    let (env, mut worker) = TestEnv::ready("").await;
    let inputs: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let body = json!({"model": "tiny", "input": inputs, "dimensions": 2, "truncate_prompt_tokens": -1});
    let begun = env.begin("/v1/embeddings", &body);
    let mut asked = Vec::new();
    for _ in 0..2 {
        let Operation { id, kind: OperationKind::Embed(input) } = worker.operation().await else {
            panic!("no texts to embed")
        };
        assert_eq!((input.truncate, input.dimensions), (Truncation::ToModel, Some(2)));
        asked.push((id, input));
    }
    asked.sort_by_key(|(_, input)| input.first);
    assert_eq!(
        asked.iter().map(|(_, input)| (input.first, input.inputs.len())).collect::<Vec<_>>(),
        [(0, 16), (16, 4)]
    );
    // The later one is done first.
    for (id, input) in asked.iter().rev() {
        let number = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => (3, text.parse().unwrap()),
            other => panic!("{other:?}"),
        };
        let vectors: Vec<(u32, f32)> = input.inputs.iter().map(number).collect();
        worker.events(*id, vec![StreamEventKind::Answered(embeddings(&vectors))]).await;
    }
    let answer = Reply::read(soon("an answer", begun).await.unwrap()).await.json();
    let firsts = answer["data"].as_array().unwrap().iter().map(|item| item["embedding"][0].as_f64().unwrap());
    assert_eq!(firsts.collect::<Vec<_>>(), (0..20).map(f64::from).collect::<Vec<_>>());
    assert_eq!(answer["usage"], json!({"prompt_tokens": 60, "total_tokens": 60}));
}

#[tokio::test]
async fn one_input_that_can_not_be_embedded_fails_the_request_and_the_others_are_cancelled() {
    let (env, mut worker) = TestEnv::ready("").await;
    let begun = env.begin("/v1/embeddings", &json!({"model": "tiny", "input": vec!["a"; 17]}));
    let (one, other) = (worker.operation().await.id, worker.operation().await.id);
    let failure = Failure {
        kind: FailureKind::ContextLengthExceeded,
        param: Some("input".into()),
        message: "input 3 is too long".into(),
    };
    worker.events(one, vec![StreamEventKind::Failed(failure)]).await;
    assert_eq!(error(begun).await, (400, "context_length_exceeded".to_owned()));
    assert_eq!(worker.next().await, Submission::Cancel(other));
}

#[tokio::test]
async fn an_answer_with_fewer_vectors_than_inputs_is_none() {
    let (env, mut worker) = TestEnv::ready("").await;
    let begun = env.begin("/v1/embeddings", &json!({"model": "tiny", "input": ["a", "b"]}));
    let id = worker.operation().await.id;
    worker.events(id, vec![StreamEventKind::Answered(embeddings(&[(1, 1.0)]))]).await;
    assert_eq!(error(begun).await.0, 500);
}
