//! Requests that can't be served are refused in OpenAI's shape, and hurt nobody.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use test_support::{MODEL, Server, chat};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn every_bad_request_is_refused_by_its_field() {
    let server = Server::start();
    let client = &server.client;
    let with = |field: &str, value: Value| {
        let mut request = chat("hi", 4);
        request[field] = value;
        request
    };
    let long = "word ".repeat(9_000);
    let requests = [
        (with("temperature", json!(-1)), "temperature"),
        (with("temperature", json!("warm")), "temperature"),
        (with("top_p", json!(1.5)), "top_p"),
        (with("max_tokens", json!(-5)), "max_tokens"),
        (with("max_tokens", json!(1e300)), "max_tokens"),
        (with("seed", json!(1e40)), "seed"),
        (with("messages", json!([])), "messages"),
        (with("messages", json!("hi")), "messages"),
        (with("messages", json!([{"role": "user", "content": long}])), "messages"),
        (with("n", json!(9)), "n"),
        (with("stop", json!([1, 2])), "stop"),
        (with("logit_bias", json!({"999999": 1})), "logit_bias"),
        (with("stream", json!("yes")), "stream"),
    ];
    for (request, field) in requests {
        for stream in [false, true] {
            let mut request = request.clone();
            if field != "stream" {
                request["stream"] = stream.into();
            }
            let answer = client.post(CHAT, &request);
            assert_eq!(answer.status, 400, "{field}: {}", answer.json);
            let error = &answer.json["error"];
            let param = error["param"].as_str().unwrap_or_default();
            assert!(param.starts_with(field), "{field}: {error}");
            assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{field}: {error}");
            assert_eq!(error["type"], "invalid_request_error", "{field}: {error}");
        }
    }
    let unknown = client.post(CHAT, &with("model", json!("gpt-9")));
    assert_eq!((unknown.status, &unknown.json["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(client.ask("What is the capital of France?", 16), "The capital of France is Paris.");
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let server = Server::start();
    let client = &server.client;
    let bodies: [&[u8]; 6] = [
        b"",
        b"{",
        b"[1,2]",
        b"\xff\xfe\x00",
        b"null",
        &[b"[".repeat(100_000), b"]".repeat(100_000)].concat(),
    ];
    for body in bodies {
        let answer = client.post_bytes(CHAT, body);
        assert_eq!(answer.status, 400, "{}", answer.json);
        assert!(answer.json["error"]["message"].is_string(), "{}", answer.json);
    }
    let answer = client.get("/v1/nothing");
    assert_eq!((answer.status, answer.json["error"].is_object()), (404, true));
    let answer = client.get(CHAT);
    assert_eq!((answer.status, answer.json["error"].is_object()), (405, true));
    let tokens = client.post("/v1/completions", &json!({"model": MODEL, "prompt": [1, 4_000_000]}));
    assert_eq!((tokens.status, &tokens.json["error"]["param"]), (400, &json!("prompt")));
    assert_eq!(client.get("/livez").status, 200);
}

#[test]
fn a_50_mb_body_is_refused() {
    let server = Server::start();
    let client = &server.client;
    let mut request = chat("hi", 4);
    request["messages"][0]["content"] = "x".repeat(50 << 20).into();
    let answer = client.post(CHAT, &request);
    assert_eq!(answer.status, 413, "{}", answer.json);
    assert!(answer.json["error"]["message"].is_string());
    assert_eq!(client.get("/livez").status, 200);
}
