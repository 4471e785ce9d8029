//! Several choices of one request, where an output ends, and the prompt before it.

use super::*;

const COMPLETIONS: &str = "/v1/completions";
const PROMPT: &str = "My favourite animal is";

fn body(more: Value) -> Value {
    let mut body =
        json!({"model": MODEL, "prompt": PROMPT, "max_tokens": 10, "temperature": 1.1, "seed": 40});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The choices of an answer, in order.
fn choices(server: &Server, more: Value) -> Vec<Value> {
    let answer = server.client.post(COMPLETIONS, &body(more));
    assert_eq!(answer.status, 200, "{}", answer.json);
    answer.json["choices"].as_array().unwrap().clone()
}

fn texts(choices: &[Value]) -> Vec<String> {
    choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_choice_is_what_its_seed_gets_alone_streamed_or_not() {
    let server = Server::start();
    let three = choices(&server, json!({"n": 3}));
    let indices: Vec<_> = three.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2]);
    let three = texts(&three);
    assert_eq!(three.iter().collect::<HashSet<_>>().len(), 3, "{three:?}");
    assert_eq!(texts(&choices(&server, json!({"n": 3}))), three);
    if cfg!(not(target_os = "macos")) {
        for (seed, text) in (40..).zip(&three) {
            assert_eq!(texts(&choices(&server, json!({"seed": seed}))), [text.as_str()]);
        }
    }

    let streamed = json!({"n": 3, "stream": true, "stream_options": {"include_usage": true}});
    let mut events = server.client.stream(COMPLETIONS, &body(streamed)).rest();
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let (usage, events) = events.split_last().unwrap();
    let mut found = vec![String::new(); 3];
    for choice in events.iter().map(|event| &event["choices"][0]) {
        found[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    assert_eq!(found, three);
    let whole = server.client.post(COMPLETIONS, &body(json!({"n": 3}))).json;
    for tokens in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(whole["usage"][tokens], usage["usage"][tokens], "{tokens}");
    }

    let mut chat = chat(CAPITAL, 6);
    chat["n"] = 2.into();
    let answer = server.client.post(CHAT, &chat).json;
    let contents: Vec<_> =
        (0..2).map(|n| answer["choices"][n]["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(contents, ["The capital of France is Paris"; 2], "greedy, whatever the seed");
}

#[test]
fn the_best_of_several_is_the_most_likely_one_and_may_follow_its_prompt() {
    let server = Server::start();
    let all = choices(&server, json!({"n": 4, "logprobs": 0}));
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs.iter().map(|it| it.as_f64().unwrap()).sum::<f64>() / logprobs.len() as f64
    };
    let best = all.iter().max_by(|a, b| mean(a).total_cmp(&mean(b))).unwrap();
    let chosen = choices(&server, json!({"best_of": 4, "echo": true}));
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0]["text"], format!("{PROMPT}{}", best["text"].as_str().unwrap()));
    assert_eq!((&chosen[0]["index"], &chosen[0]["logprobs"]), (&json!(0), &Value::Null));

    let tokens = server.client.post("/v1/tokenize", &json!({"model": MODEL, "prompt": PROMPT})).json;
    let echoed = choices(&server, json!({"prompt": tokens["tokens"], "echo": true, "max_tokens": 1}));
    assert!(echoed[0]["text"].as_str().unwrap().starts_with(PROMPT), "{}", echoed[0]);
}

#[test]
fn outputs_end_where_they_are_told_and_not_earlier() {
    let server = Server::start();
    let ask = |more: Value| {
        let mut request = chat(CAPITAL, 24);
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = server.client.post(CHAT, &request).json;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        (text, answer["choices"][0]["finish_reason"].clone(), answer["usage"]["completion_tokens"].clone())
    };
    let paris =
        server.client.post("/v1/tokenize", &json!({"model": MODEL, "prompt": " Paris"})).json["tokens"]
            .clone();
    let end = |text: &str, tokens: u64| (text.to_owned(), json!("stop"), json!(tokens));
    assert_eq!(ask(json!({"stop_token_ids": paris})), end("The capital of France is", 6));
    let shown = json!({"stop_token_ids": paris, "include_stop_str_in_output": true});
    assert_eq!(ask(shown), end("The capital of France is Paris", 6));
    let shown = json!({"stop": ["France", " of France is"], "include_stop_str_in_output": true});
    assert_eq!(ask(shown), end("The capital of France is", 5));
    let least = json!({"stop": "capital", "stop_token_ids": paris, "min_tokens": 20});
    let (text, _, tokens) = ask(least);
    assert!(tokens.as_u64().unwrap() > 20 && !text.contains("Paris"), "{text}");
    let typical = ask(json!({"temperature": 1.0, "typical_p": 0.2, "seed": 5}));
    assert_eq!(typical, ask(json!({"temperature": 1.0, "typical_p": 0.2, "seed": 5})));
}
