//! What a client gets for its questions.

#![allow(clippy::unwrap_used)]

#[path = "answers/choices.rs"]
mod choices;
#[path = "answers/logprobs.rs"]
mod logprobs;

use std::collections::HashSet;
#[cfg(not(target_os = "macos"))]
use std::thread;

use serde_json::{Value, json};
use test_support::{MODEL, Options, PrivateStore, Server, chat, import, write_tiny_model};

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
    assert_eq!(last["choices"], json!([]));
    for tokens in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][tokens], usage[tokens], "{tokens}");
    }
    let cached = |usage: &Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(usage), 0);
    assert!((32..37).contains(&cached(&last["usage"])), "the prompt is known by now");
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

#[test]
fn operations_agree_with_generations_and_with_each_other() {
    let server = Server::start();
    let client = &server.client;
    let ask = |path: &str, body: Value| {
        let answer = client.post(path, &body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.json);
        answer.json
    };

    // There and back, with a text of several scripts.
    let text = "The capital of France is Paris. Größe, 東京, 🙂 <|im_end|>";
    let tokenized = ask("/v1/tokenize", json!({"model": MODEL, "prompt": text, "return_token_strs": true}));
    let count = tokenized["count"].as_u64().unwrap() as usize;
    assert_eq!(tokenized["token_strs"].as_array().unwrap().len(), count);
    assert_eq!(tokenized["token_strs"][1], "Ġcapital");
    let detokenized = ask("/v1/detokenize", json!({"model": MODEL, "tokens": tokenized["tokens"]}));
    assert_eq!(detokenized["prompt"], text);
    let plain = ask("/tokenize", json!({"content": text}));
    assert_eq!(plain["tokens"], tokenized["tokens"]);
    assert_eq!(ask("/detokenize", plain)["content"], text);
    let pieces = ask("/tokenize", json!({"content": text, "with_pieces": true}));
    let bytes = |piece: &Value| match piece {
        Value::String(text) => text.as_bytes().to_vec(),
        bytes => bytes.as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
    };
    let joined: Vec<u8> =
        pieces["tokens"].as_array().unwrap().iter().flat_map(|token| bytes(&token["piece"])).collect();
    assert_eq!(String::from_utf8(joined).unwrap(), text);

    // A chat's prompt is what the template renders, and has as many tokens as its generation says.
    let messages = chat(CAPITAL, 1)["messages"].clone();
    let rendered = ask("/apply-template", json!({"messages": messages}))["prompt"].clone();
    assert!(rendered.as_str().unwrap().contains(CAPITAL));
    let of_chat = ask("/tokenize", json!({"model": MODEL, "messages": messages}));
    let of_text = ask("/tokenize", json!({"content": rendered}));
    assert_eq!(of_chat["tokens"], of_text["tokens"]);
    let generated = client.post(CHAT, &chat(CAPITAL, 1)).json;
    assert_eq!(generated["usage"]["prompt_tokens"], of_chat["count"]);
    let completion = json!({"model": MODEL, "prompt": of_chat["tokens"], "max_tokens": 1, "temperature": 0});
    assert_eq!(
        ask("/v1/completions", completion)["choices"][0]["text"],
        generated["choices"][0]["message"]["content"]
    );
    assert_eq!(client.post("/detokenize", &json!({"tokens": [99_999_999]})).status, 400);
    let answered = client.get("/metrics").json;
    assert!(answered.as_str().unwrap().contains("kr_operate_results_total"), "{answered}");
}

#[test]
fn a_draft_model_has_to_have_the_same_vocabulary() {
    let store = PrivateStore::with_names(&["same"]);
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path());
    import(&store.path(), folder.path(), "tiny");
    let server = Server::start_with(&Options { store: Some(store.path()), ..Options::default() });
    let check =
        |draft: &str| server.client.post("/v1/check_draft", &json!({"model": MODEL, "draft_model": draft}));
    for same in [MODEL.to_owned(), "same".to_owned(), store.digest()] {
        let answer = check(&same);
        assert_eq!((answer.status, &answer.json["compatible"]), (200, &json!(true)), "{}", answer.json);
        assert_eq!(answer.json["reason"], Value::Null);
    }
    let answer = check("tiny");
    assert_eq!((answer.status, &answer.json["compatible"]), (200, &json!(false)), "{}", answer.json);
    assert!(answer.json["reason"].as_str().unwrap().contains("64"), "{}", answer.json);
    assert_eq!(answer.json["draft_vocab_size"], 64);
    assert_eq!(check("absent").status, 404);
}
