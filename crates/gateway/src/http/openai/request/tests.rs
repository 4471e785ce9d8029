#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use super::{fields::OFFERED, foreign::rules::RULES, *};
use crate::serve::{Caller, ChatMessage, Priority, Sampling};

mod choices;
mod ends;
mod logprobs;
mod messages;
mod output;
mod terms;

fn asked_with(more: Value) -> Result<Asked<Context>, ApiError> {
    super::chat(with(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}), more).as_bytes())
}

fn chat_with(more: Value) -> Result<GenerateRequest, ApiError> {
    asked_with(more).map(|asked| asked.request)
}

fn completion_with(more: Value) -> Result<GenerateRequest, ApiError> {
    completion_of(&with(json!({"model": "m", "prompt": "hi"}), more))
}

fn completion_of(body: &str) -> Result<GenerateRequest, ApiError> {
    completion(body.as_bytes()).map(|asked| asked.request)
}

fn with(mut body: Value, more: Value) -> String {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// (param, message) of the error.
fn error(result: Result<GenerateRequest, ApiError>) -> (String, String) {
    let error = result.unwrap_err();
    (error.report().param.unwrap_or_default(), error.to_string())
}

#[test]
fn defaults_are_openais() {
    let chat = chat_with(json!({})).unwrap();
    assert_eq!((chat.sampling.temperature, chat.sampling.top_p, chat.max_tokens), (1.0, 1.0, None));
    assert!(!chat.ignore_eos && chat.stop.is_empty());
    let asked = asked_with(json!({})).unwrap();
    assert!(!asked.stream && !asked.context.include_usage);
    assert_eq!(completion_with(json!({})).unwrap().max_tokens, Some(16));
}

#[test]
fn every_parameter_reaches_the_request() {
    let asked = asked_with(json!({
        "max_completion_tokens": 7, "stop": ["a", "b"], "seed": 5, "temperature": 0.5, "top_p": 0.25,
        "top_k": 3, "min_p": 0.125, "typical_p": 0.875, "presence_penalty": -2, "frequency_penalty": 2,
        "repetition_penalty": 1.5, "logit_bias": {"9": -100}, "ignore_eos": true,
        "min_tokens": 2, "stop_token_ids": [7, 9.0], "include_stop_str_in_output": true,
        "logprobs": true, "top_logprobs": 4,
        "stream": true, "stream_options": {"include_usage": true}, "priority": -3, "timeout": 1.5,
    }))
    .unwrap();
    assert!(asked.stream);
    assert_eq!(asked.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(asked.context, Context { model: "m".into(), include_usage: true, logprobs: true, shown: 1 });
    let message = ChatMessage::new("user", "hi");
    assert_eq!(
        asked.request,
        GenerateRequest {
            model: "m".into(),
            adapter: None,
            prompt: Prompt::Chat(vec![message]),
            sampling: Sampling {
                temperature: 0.5,
                top_p: 0.25,
                top_k: 3,
                min_p: 0.125,
                typical_p: 0.875,
                repetition_penalty: 1.5,
                presence_penalty: -2.0,
                frequency_penalty: 2.0,
                logit_bias: vec![(9, -100.0)],
                seed: 5,
                logprobs: Some(4),
            },
            max_tokens: Some(7),
            min_tokens: 2,
            stop: vec!["a".into(), "b".into()],
            stop_tokens: vec![7, 9],
            include_stop: true,
            ignore_eos: true,
            output: None,
            tools: None,
            caller: Caller::default(),
            priority: Priority(-3),
            deadline: None,
            correlation: Correlation::default(),
        }
    );
}

#[test]
fn null_and_harmless_fields_are_allowed() {
    chat_with(json!({
        "user": "u", "metadata": {"a": 1}, "store": true, "keep_alive": "5m", "stop": null, "seed": null,
        "temperature": null, "n": null, "logprobs": false, "tools": [], "tool_choice": "auto",
        "response_format": {"type": "text"}, "logit_bias": null, "stream_options": null, "max_tokens": null,
        "unheard_of": null,
    }))
    .unwrap();
    completion_with(json!({"suffix": null, "echo": false, "best_of": 1, "n": 1, "logprobs": null})).unwrap();
    for name in OFFERED.iter().filter(|name| !matches!(**name, "model" | "messages" | "prompt")) {
        chat_with(json!({*name: null})).unwrap();
        completion_with(json!({*name: null})).unwrap();
    }
}

#[test]
fn fields_that_nobody_knows_are_refused_by_name() {
    for (name, shown) in [("temprature", "temprature".to_owned()), (&*"é".repeat(500), "é".repeat(50))] {
        let refused = chat_with(json!({name: 1}));
        assert!(matches!(&refused, Err(ApiError::Unknown { .. })));
        assert_eq!(error(refused).0, shown);
    }
    assert_eq!(error(chat_with(json!({"prompt": "x"}))).0, "prompt");
    assert_eq!(error(completion_with(json!({"messages": []}))).0, "messages");
}

#[test]
fn no_field_is_both_offered_and_refused() {
    for (names, ..) in RULES {
        let operations = ["tools", "tool_choice"];
        assert!(names.iter().all(|name| operations.contains(name) || !OFFERED.contains(name)), "{names:?}");
    }
}

#[test]
fn other_servers_names_mean_the_same() {
    let sampling = |more: Value| chat_with(more).unwrap().sampling;
    assert_eq!(sampling(json!({"repeat_penalty": 1.5})).repetition_penalty, 1.5);
    assert_eq!(sampling(json!({"repeat_penalty": 1.5, "repetition_penalty": 1.5})).repetition_penalty, 1.5);
    assert_eq!(sampling(json!({"random_seed": 5})).seed, 5);
    assert_eq!(sampling(json!({"typical": 0.5})).typical_p, 0.5);
    assert_eq!(sampling(json!({"typical_p": 0})).typical_p, 1.0);
    assert_eq!(chat_with(json!({"stop_sequences": ["a"]})).unwrap().stop, ["a"]);
    for name in ["max_new_tokens", "n_predict", "num_predict", "max_output_tokens", "max_completion_tokens"] {
        assert_eq!(chat_with(json!({name: 7})).unwrap().max_tokens, Some(7), "{name}");
        assert_eq!(completion_with(json!({name: -1})).unwrap().max_tokens, None, "{name}");
        assert_eq!(error(chat_with(json!({name: 7, "max_tokens": 8}))).0, "max_tokens");
    }
    assert_eq!(
        error(chat_with(json!({"repeat_penalty": 1.5, "repetition_penalty": 2}))).0,
        "repetition_penalty"
    );
    assert_eq!(error(chat_with(json!({"repeat_penalty": 0}))).0, "repeat_penalty");
    assert_eq!(error(chat_with(json!({"stop": "a", "stop_sequences": ["a"]}))).0, "stop_sequences");
    // A window of penalties matters only if there are any.
    sampling(json!({"repeat_last_n": 64, "repeat_penalty": 1.0}));
    sampling(json!({"repeat_last_n": -1, "repeat_penalty": 1.1}));
    assert_eq!(error(chat_with(json!({"repeat_last_n": 64, "repeat_penalty": 1.1}))).0, "repeat_last_n");
    assert_eq!(
        error(chat_with(json!({"repetition_context_size": 20, "presence_penalty": 1}))).0,
        "repetition_context_size"
    );
}

#[test]
fn values_may_be_written_as_clients_write_them() {
    let checked = chat_with(json!({
        "max_tokens": 2.0, "seed": 3.0, "top_k": 4.0, "n": 1.0, "temperature": 1, "stop": "",
        "stream_options": {"include_usage": true, "include_obfuscation": false},
    }))
    .unwrap();
    assert_eq!((checked.max_tokens, checked.sampling.seed, checked.sampling.top_k), (Some(2), 3, 4));
    assert!(checked.stop.is_empty());
    assert!(!asked_with(json!({"stream_options": {"include_usage": true}})).unwrap().stream);
    assert_eq!(chat_with(json!({"max_tokens": -1})).unwrap().max_tokens, None);
    assert_eq!(completion_with(json!({"max_tokens": -1})).unwrap().max_tokens, None);
    assert_eq!(completion_with(json!({"max_tokens": null})).unwrap().max_tokens, Some(16));
    let twenty: Vec<_> = (0..20).map(|n| format!("stop {n}")).collect();
    assert_eq!(chat_with(json!({"stop": twenty})).unwrap().stop, twenty);
    assert_eq!(chat_with(json!({"stop": ["a", ""]})).unwrap().stop, ["a"]);
    assert!(chat_with(json!({"stop": []})).unwrap().stop.is_empty());
    let marked = format!("\u{feff}{}", with(json!({"model": "m", "prompt": "hi"}), json!({})));
    completion_of(&marked).unwrap();
}

#[test]
fn biases_have_one_key_for_one_token() {
    let bias = |text: &str| {
        let body = format!("{{\"model\": \"m\", \"prompt\": \"hi\", \"logit_bias\": {text}}}");
        completion_of(&body)
    };
    assert_eq!(bias("{\"0\": 1, \"7\": -1.5}").unwrap().sampling.logit_bias, [(0, 1.0), (7, -1.5)]);
    for text in [
        "{\"7\": 1, \"07\": 1}",
        "{\"007\": 1}",
        "{\"+7\": 1}",
        "{\" 7\": 1}",
        "{\"7.0\": 1}",
        "{\"\": 1}",
        "{\"7\": 1, \"7\": 2}",
        "{\"4294967296\": 1}",
        "{\"\u{0667}\": 1}",
    ] {
        let (param, message) = error(bias(text));
        assert!(param.starts_with("logit_bias."), "{text}: {param}");
        assert!(message.contains("given twice") || message.contains("token id"), "{message}");
    }
}

#[test]
fn special_tokens_are_added_where_they_are_added_anyway() {
    chat_with(json!({"add_special_tokens": false})).unwrap();
    completion_with(json!({"add_special_tokens": true})).unwrap();
    assert_eq!(error(chat_with(json!({"add_special_tokens": true}))).0, "add_special_tokens");
    assert_eq!(error(completion_with(json!({"add_bos_token": false}))).0, "add_bos_token");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (name, value) in [
        ("echo", json!(true)),
        ("n_probs", json!(3)),
        ("tool_choice", json!("required")),
        ("functions", json!([{}])),
        ("function_call", json!({"name": "f"})),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "x"})),
        ("structural_tag", json!({"type": "object"})),
        ("ebnf", json!("root ::= \"a\"")),
        ("min_length", json!(4)),
        ("stop_tokens", json!([2])),
        ("chat_template_kwargs", json!({"enable_thinking": false})),
        ("format", json!("json")),
        ("mirostat", json!(2)),
        ("options", json!({"temperature": 0})),
        ("stream_options.continuous_usage_stats", json!(true)),
    ] {
        let (top, value) = match name.split_once('.') {
            Some((top, inner)) => (top, json!({inner: value})),
            None => (name, value),
        };
        let (param, message) = error(chat_with(json!({top: value})));
        assert_eq!(param, name);
        assert!(message.contains(name) && message.contains("not supported yet"), "{message}");
    }
    for (name, value) in [
        ("prompt_logprobs", json!(1)),
        ("suffix", json!("x")),
        ("prompt", json!(["a", "b"])),
        ("prompt", json!([[1], [2]])),
    ] {
        let (param, message) = error(completion_with(json!({name: value})));
        assert_eq!(param, name);
        assert!(message.contains("not supported yet"), "{message}");
    }
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    for (name, value) in [
        ("temperature", json!(2.1)),
        ("temperature", json!(-0.1)),
        ("top_p", json!(0)),
        ("top_p", json!(1e-60)),
        ("top_p", json!(1.1)),
        ("top_k", json!(-2)),
        ("top_k", json!(1u64 << 40)),
        ("min_p", json!(1.5)),
        ("typical_p", json!(1.5)),
        ("min_tokens", json!(-1)),
        ("stop_token_ids", json!(vec![1; 1025])),
        ("presence_penalty", json!(2.5)),
        ("frequency_penalty", json!(-2.5)),
        ("repetition_penalty", json!(0)),
        ("max_tokens", json!(0)),
        ("n", json!(0)),
        ("max_tokens", json!(-2)),
        ("max_tokens", json!(1e300)),
        ("n", json!(-1)),
        ("stop", json!(vec!["x"; 65])),
        ("stop", json!("x".repeat(5000))),
        ("seed", json!(1.5)),
        ("seed", json!("1")),
        ("stop", json!(true)),
        ("model", json!("")),
    ] {
        assert_eq!(error(chat_with(json!({name: value.clone()}))).0, name, "{value}");
        assert_eq!(error(completion_with(json!({name: value.clone()}))).0, name, "{value}");
    }
    assert_eq!(error(chat_with(json!({"stop": ["a", 1]}))).0, "stop[1]");
    assert_eq!(error(chat_with(json!({"logit_bias": {"7": 101}}))).0, "logit_bias.7");
    assert_eq!(error(chat_with(json!({"logit_bias": {"-7": 1}}))).0, "logit_bias.-7");
}

#[test]
fn wrong_types_name_the_field_and_the_place() {
    let (param, message) = error(chat_with(json!({"temperature": "hot"})));
    assert_eq!(param, "temperature");
    assert!(message.contains("line 1 column"), "{message}");
    assert_eq!(error(chat_with(json!({"stream": 1}))).0, "stream");
    assert_eq!(message, "`temperature`: must be a number, not the string \"hot\" (line 1 column 76)");
    assert_eq!(error(chat_with(json!({"max_tokens": 1.5}))).0, "max_tokens");
    let words = |more: Value| error(chat_with(more)).1;
    assert!(words(json!({"max_tokens": 1.5})).contains("must be a whole number, not 1.5"));
    assert!(words(json!({"stream": 1})).contains("must be true or false, not 1"));
    assert!(words(json!({"stop": {}})).contains("must be a string or a list of strings, not an object"));
    assert!(words(json!({"temperature": [1]})).contains("must be a number, not a list"));
    assert!(words(json!({"temperature": "x".repeat(1 << 20)})).len() < 200);
    assert!(words(json!({"messages": [{"role": null}]})).contains("is required"));
    assert_eq!(error(chat_with(json!({"messages": "hi"}))).0, "messages");
    assert_eq!(error(chat_with(json!({"messages": [{"role": 1}]}))).0, "messages[0].role");
    assert_eq!(error(chat_with(json!({"logit_bias": [1]}))).0, "logit_bias");
}

#[test]
fn broken_bodies_say_where() {
    let words = |body: &[u8]| super::chat(body).unwrap_err().to_string();
    assert_eq!(words(b"{\n\"model\": }"), "the body is not valid JSON: expected value at line 2 column 10");
    assert!(words(b"").contains("EOF"));
    assert!(words(b"{} x").contains("trailing characters at line 1 column 4"));
    assert_eq!(words(b"{\"model\": \"\xff\"}"), "the body is not UTF-8 from byte 11 on");
    let deep = |field: &str| format!("{{\"{field}\": {}", "[".repeat(1 << 20));
    assert!(words(deep("stop").as_bytes()).contains("must be a string, not a list"));
    assert!(words(deep("metadata").as_bytes()).contains("EOF"), "what is not kept is not recursed into");
    assert!(words(b"[]").contains("the body: must be a JSON object, not a list"));
    assert!(words(b"[\"m\"]").contains("must be a JSON object"));
    assert!(words(b"{\"n\": 1, \"n\": 1}").contains("`n` is given twice"));
}

#[test]
fn prompts_may_be_text_or_tokens() {
    let prompt = |value: Value| completion_with(json!({"prompt": value})).map(|c| c.prompt);
    assert_eq!(prompt(json!("x")).unwrap(), Prompt::Text("x".into()));
    assert_eq!(prompt(json!(["x"])).unwrap(), Prompt::Text("x".into()));
    assert_eq!(prompt(json!([1, 2])).unwrap(), Prompt::Tokens(vec![1, 2]));
    assert_eq!(prompt(json!([[1, 2]])).unwrap(), Prompt::Tokens(vec![1, 2]));
    assert_eq!(prompt(json!([1.0, 2])).unwrap(), Prompt::Tokens(vec![1, 2]));
    for bad in
        [json!(null), json!(1), json!([]), json!([[]]), json!([-1]), json!([1, "x"]), json!([1u64 << 32])]
    {
        assert!(matches!(prompt(bad), Err(ApiError::Field { .. })));
    }
}

#[test]
fn seeds_are_kept_or_drawn() {
    let seed = |value: Value| chat_with(json!({"seed": value})).unwrap().sampling.seed;
    assert_eq!(seed(json!(-1)), u64::MAX);
    assert_eq!(seed(json!(u64::MAX)), u64::MAX);
    assert_ne!(seed(json!(null)), seed(json!(null)), "drawn seeds differ");
}
