//! What a client gets for its questions.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
#[cfg(not(target_os = "macos"))]
use std::thread;

use serde_json::{Value, json};
use test_support::{MODEL, Server, chat};

const CHAT: &str = "/v1/chat/completions";
const CAPITAL: &str = "What is the capital of France?";

#[test]
fn the_capital_of_france() {
    let server = Server::start();
    let client = &server.client;

    let whole = client.post(CHAT, &chat(CAPITAL, 32)).json;
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(text, "The capital of France is Paris.");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["object"], "chat.completion");
    let usage = &whole["usage"];
    assert_eq!(usage["prompt_tokens"], 37);
    assert_eq!(usage["completion_tokens"], 8, "seven that are seen, and the one that ends the answer");
    assert_eq!(usage["total_tokens"], 45);

    let mut request = chat(CAPITAL, 32);
    request["stream"] = true.into();
    request["stream_options"] = json!({"include_usage": true});
    let mut events = client.stream(CHAT, &request).rest();
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let choices: Vec<&Value> = events.iter().flat_map(|event| event["choices"].as_array().unwrap()).collect();
    let streamed: String = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    assert_eq!(streamed, text);
    let reasons: Vec<_> = choices.iter().filter_map(|choice| choice["finish_reason"].as_str()).collect();
    assert_eq!(reasons, ["stop"]);
    let last = events.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    let ids: HashSet<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    drop(server);
}

/// On the CPU only: MLX chooses Metal kernels by the size of the batch, so near ties may fall differently there.
#[cfg(not(target_os = "macos"))]
#[test]
fn eight_at_once_are_answered_as_alone() {
    let server = Server::start();
    let questions = [
        "Name three colours.",
        "What is two plus two?",
        "Write one sentence about the sea.",
        "Who wrote Hamlet?",
        "Translate 'good morning' to French.",
        "What do bees make?",
        "Give me a word that rhymes with cat.",
        CAPITAL,
    ];
    let alone: Vec<String> = questions.iter().map(|question| server.client.ask(question, 24)).collect();
    let together: Vec<String> = thread::scope(|scope| {
        let asked: Vec<_> =
            questions.iter().map(|question| scope.spawn(|| server.client.ask(question, 24))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
    assert_eq!(alone.iter().collect::<HashSet<_>>().len(), questions.len(), "{alone:?}");
}

#[test]
fn fields_do_what_they_say() {
    let server = Server::start();
    let client = &server.client;

    let mut request = chat(CAPITAL, 32);
    request["stop"] = json!([" France", "xyz"]);
    let stopped = client.post(CHAT, &request).json;
    assert_eq!(stopped["choices"][0]["message"]["content"], "The capital of");
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");

    let cut = client.post(CHAT, &chat(CAPITAL, 3)).json;
    assert_eq!(cut["choices"][0]["message"]["content"], "The capital of");
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["usage"]["completion_tokens"], 3);

    let warm = |seed: u64| {
        let request = json!({
            "model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 1.2, "top_p": 0.95,
            "top_k": 100, "min_p": 0.01, "seed": seed,
        });
        let answer = client.post("/v1/completions", &request);
        assert_eq!(answer.status, 200, "{}", answer.json);
        answer.json["choices"][0]["text"].as_str().unwrap().to_string()
    };
    assert_eq!(warm(1), warm(1));
    assert_ne!(warm(1), warm(2));

    let biased = json!({
        "model": MODEL, "prompt": "1 2 3 4", "max_tokens": 2, "temperature": 0, "logit_bias": {"36": 100},
    });
    let answer = client.post("/v1/completions", &biased);
    assert_eq!(answer.json["usage"]["completion_tokens"], 2, "{}", answer.json);
    let text = answer.json["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text.chars().collect::<HashSet<_>>().len(), 1, "one token twice: {text:?}");
}

#[test]
fn models_and_metrics_tell_what_there_is() {
    let server = Server::start();
    let client = &server.client;
    let models = client.get("/v1/models").json;
    assert_eq!(models["data"][0]["id"], MODEL);
    assert_eq!(client.get(&format!("/v1/models/{MODEL}")).status, 200);
    assert_eq!(client.get("/v1/models/other").status, 404);
    assert_eq!(client.get("/livez").status, 200);
    assert_eq!(client.get("/readyz").status, 200);
    client.ask(CAPITAL, 2);
    let metrics = client.get("/metrics").json;
    assert!(metrics.as_str().unwrap().contains("time_to_first_token"), "{metrics}");
}
