//! A model that writes in gpt-oss's format: what of its output clients are told, also when its worker dies.

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{Options, Script, Server, import, process::kill, write_scripted_model};

use super::exact::counter;

const CHAT: &str = "/v1/chat/completions";
const MODEL: &str = "scripted";

const SPECIAL: [&str; 7] =
    ["<|return|>", "<|call|>", "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"];

/// Without a name for the user, of which there are no tokens.
const TEMPLATE: &str = "{% for m in messages %}<|start|><|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant\
                        {#- an answer: <|channel|>final<|message|> #}";

/// Thinks, one message after the other, until something forbids it.
const THINKS: Script<'_> = Script {
    special: &SPECIAL,
    words: &["assistant", "analysis", "final", "Why", " not", "?", "So", "."],
    template: TEMPLATE,
    follows: &[
        ("assistant", "<|channel|>"),
        ("<|channel|>", "analysis"),
        ("analysis", "<|message|>"),
        ("<|message|>", "Why"),
        ("Why", " not"),
        (" not", "?"),
        ("?", "<|end|>"),
        ("<|end|>", "<|start|>"),
        ("<|start|>", "assistant"),
    ],
};

/// Calls a tool.
const CALLS: Script<'_> = Script {
    special: &SPECIAL,
    words: &["assistant", "commentary to=functions.weather ", "json", "{\"city\":", " \"Oslo\"}"],
    template: TEMPLATE,
    follows: &[
        ("assistant", "<|channel|>"),
        ("<|channel|>", "commentary to=functions.weather "),
        ("commentary to=functions.weather ", "<|constrain|>"),
        ("<|constrain|>", "json"),
        ("json", "<|message|>"),
        ("<|message|>", "{\"city\":"),
        ("{\"city\":", " \"Oslo\"}"),
        (" \"Oslo\"}", "<|call|>"),
    ],
};

/// A gateway, and the store of its model.
struct TestEnv {
    server: Server,
    _store: TempDir,
}

fn start(script: &Script<'_>) -> TestEnv {
    let store = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    write_scripted_model(source.path(), script);
    import(store.path(), source.path(), MODEL);
    let server = Server::start_with(&Options {
        model: MODEL.to_owned(),
        store: Some(store.path().to_owned()),
        ..Options::default()
    });
    TestEnv { server, _store: store }
}

fn chat(more: Value) -> Value {
    let mut request =
        json!({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// What the chunks of a stream say together: reasoning, answer, and why it ended.
fn together(events: impl IntoIterator<Item = String>) -> [String; 3] {
    let mut said = [const { String::new() }; 3];
    for event in events.into_iter().filter(|event| event != "[DONE]") {
        let event: Value = serde_json::from_str(&event).unwrap();
        let choice = &event["choices"][0];
        let parts =
            [&choice["delta"]["reasoning_content"], &choice["delta"]["content"], &choice["finish_reason"]];
        for (said, part) in said.iter_mut().zip(parts) {
            *said += part.as_str().unwrap_or_default();
        }
    }
    said
}

#[test]
fn reasoning_and_answer_are_told_apart() {
    let TestEnv { server, _store } = &start(&THINKS);
    let request = chat(json!({"guided_choice": ["So."], "max_tokens": 50, "n": 2, "logprobs": true}));
    let answer = server.client.post(CHAT, &request).json;
    for choice in [&answer["choices"][0], &answer["choices"][1]] {
        let message = json!({
            "role": "assistant", "content": "So.", "reasoning_content": "Why not?", "refusal": null,
        });
        assert_eq!((&choice["message"], &choice["finish_reason"]), (&message, &json!("stop")), "{answer}");
        let tokens = choice["logprobs"]["content"].as_array().unwrap().iter();
        assert_eq!(tokens.map(|it| it["token"].as_str().unwrap()).collect::<Vec<_>>(), ["So", "."]);
    }
    // Headers are tokens, too. What is complete under a constraint needs no end.
    assert_eq!(answer["usage"]["completion_tokens"], 2 * (3 + 3 + 1 + 2 + 3 + 2));

    let request = chat(json!({"guided_choice": ["So."], "max_tokens": 50, "stream": true}));
    let events = server.client.stream(CHAT, &request).rest();
    assert_eq!(together(events), ["Why not?", "So.", "stop"].map(str::to_owned));

    // It ends within a header: of that nothing is shown.
    let cut = server.client.post(CHAT, &chat(json!({"max_tokens": 11}))).json;
    let choice = &cut["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(""), &json!("length")));
    assert_eq!(choice["message"]["reasoning_content"], "Why not?");

    // What continues a text is text.
    let request = json!({"model": MODEL, "prompt": "<|start|>assistant", "max_tokens": 11, "temperature": 0});
    let text = server.client.post("/v1/completions", &request).json;
    assert_eq!(text["choices"][0]["text"], "analysisWhy not?assistantanalysis");
}

#[test]
fn a_call_ends_the_turn_and_its_result_goes_on() {
    let TestEnv { server, _store } = &start(&CALLS);
    let tools =
        json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]);
    let answer = server.client.post(CHAT, &chat(json!({"tools": tools, "max_tokens": 50}))).json;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &choice["message"]["tool_calls"][0];
    let function = json!({"name": "weather", "arguments": "{\"city\": \"Oslo\"}"});
    assert_eq!((&call["function"], &call["type"]), (&function, &json!("function")), "{answer}");

    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "12 degrees"});
    let messages = json!([{"role": "user", "content": "Hi"}, choice["message"], result]);
    let next = server.client.post(CHAT, &chat(json!({"messages": messages, "tools": tools})));
    assert_eq!((next.status, &next.json["choices"][0]["finish_reason"]), (200, &json!("tool_calls")));
}

#[test]
fn a_stream_goes_on_in_its_channel_when_its_worker_dies() {
    let TestEnv { server, _store } = &start(&THINKS);
    let request = chat(json!({"max_tokens": 6000, "stream": true}));
    let expected = together(server.client.stream(CHAT, &request).rest());
    assert_eq!((expected[1].as_str(), expected[2].as_str()), ("", "length"));
    assert!(expected[0].len() > 4000 && expected[0].starts_with("Why not?Why not?"), "{expected:?}");
    let mut stream = server.client.stream(CHAT, &request);
    let first: Vec<String> = (0..40).map(|_| stream.next_data().unwrap()).collect();
    kill(server.workers()[0]);
    let found = together(first.into_iter().chain(stream.rest()));
    assert_eq!(found, expected);
    assert!(counter(server, "kr_migrations_total") > 0);
}

#[test]
fn a_model_that_marks_no_calls_takes_no_tools() {
    let plain = Script { template: "{% for m in messages %}{{ m.content }}{% endfor %}assistant", ..THINKS };
    let TestEnv { server, _store } = &start(&plain);
    let tools = json!([{"type": "function", "function": {"name": "weather"}}]);
    let refused = server.client.post(CHAT, &chat(json!({"tools": tools, "max_tokens": 50})));
    assert_eq!((refused.status, &refused.json["error"]["param"]), (400, &json!("tools")), "{}", refused.json);
    let choice = &server.client.post(CHAT, &chat(json!({"max_tokens": 6}))).json["choices"][0];
    assert_eq!(choice["message"]["content"], "analysisWhy not?");
}
