//! What a client gets that says what the answer has to be.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use test_support::{Server, chat};

const CHAT: &str = "/v1/chat/completions";
const QUESTION: &str = "Which city is the capital of France, and how many people live there? Answer in JSON.";

fn with(mut request: Value, field: &str, value: Value) -> Value {
    request[field] = value;
    request
}

fn text(answer: &Value) -> &str {
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn answers_are_what_the_client_says_they_have_to_be() {
    let server = Server::start();
    let client = &server.client;
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string", "maxLength": 20},
        "people": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
    }, "required": ["city", "people"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "city", "schema": schema}});
    let request = with(chat(QUESTION, 200), "response_format", format);
    let whole = client.post(CHAT, &request).json;
    let answer: Value = serde_json::from_str(text(&whole)).unwrap();
    assert_eq!(answer["city"], "Paris");
    assert!(answer["people"].is_u64() && answer.as_object().unwrap().len() == 2, "{answer}");

    let events = client.stream(CHAT, &with(request, "stream", true.into())).rest();
    let events = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let streamed: String = events
        .filter_map(|event| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    assert_eq!(streamed, text(&whole));

    let hot = with(with(chat(QUESTION, 200), "temperature", 1.into()), "seed", 5.into());
    for (field, value, is_right) in [
        (
            "guided_choice",
            json!(["Rome", "Oslo"]),
            (|text| text == "Rome" || text == "Oslo") as fn(&str) -> bool,
        ),
        ("guided_regex", json!("[0-9]{3} (cats|dogs)"), |text| text.len() == 8 && text.ends_with('s')),
        ("grammar", json!("start: \"<\" WORD \">\"\nWORD: /[a-z]{2,5}/"), |text| {
            text.starts_with('<') && (4..=7).contains(&text.len()) && text.ends_with('>')
        }),
    ] {
        let answer = client.post(CHAT, &with(hot.clone(), field, value)).json;
        assert!(is_right(text(&answer)), "{field}: {answer}");
    }

    for (field, value, param, reason) in [
        ("guided_regex", json!("a("), "guided_regex", "unclosed group"),
        ("guided_json", json!({"type": "thing"}), "guided_json", "thing"),
        ("structured_outputs", json!({"grammar": "root ::= \"a\""}), "structured_outputs.grammar", "GBNF"),
    ] {
        for stream in [false, true] {
            let request = with(with(chat(QUESTION, 9), field, value.clone()), "stream", stream.into());
            let refused = client.post(CHAT, &request);
            let error = &refused.json["error"];
            assert_eq!((refused.status, &error["param"]), (400, &json!(param)), "{error}");
            assert!(error["message"].as_str().unwrap().contains(reason), "{error}");
        }
    }
    // Nothing of it is left for others.
    let plain = client.post(CHAT, &chat("What is the capital of France?", 32)).json;
    assert_eq!(text(&plain), "The capital of France is Paris.");
}
