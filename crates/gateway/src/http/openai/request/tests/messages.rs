//! Messages of a chat, and the tools that an answer may call.

use super::*;
use crate::serve::ToolCall;

#[test]
fn messages_are_checked() {
    let chat = |messages: Value| chat_with(json!({"messages": messages}));
    let contents = |messages: Value| match chat(messages).unwrap().prompt {
        Prompt::Chat(messages) => messages.into_iter().map(|m| (m.role, m.content)).collect::<Vec<_>>(),
        _ => unreachable!(),
    };
    let pair = |role: &str, content: &str| (role.to_owned(), content.to_owned());
    let parts =
        json!([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, {"text": "c"}, "d"]);
    assert_eq!(
        contents(json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": null, "tool_calls": []},
        ])),
        [pair("system", "d"), pair("user", "abcd"), pair("assistant", "")]
    );
    for (messages, param) in [
        (json!([]), "messages"),
        (json!(null), "messages"),
        (json!([["user", "hi"]]), "messages[0]"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": 1}]), "messages[0].content"),
        (json!([{"role": "robot", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "function", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "tool"}]), "messages[0].content"),
        (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [1]}]), "messages[0].content[0]"),
        (json!([{"content": "x"}]), "messages[0].role"),
        (json!([{"role": "user", "content": "x", "images": ["x"]}]), "messages[0].images"),
        (json!([{"role": "assistant", "content": "x", "prefix": true}]), "messages[0].prefix"),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (json!([{"role": "assistant", "tool_calls": [{}]}]), "messages[0].tool_calls[0].function"),
        (
            json!([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]),
            "messages[0].tool_calls[0].function.name",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f"}}]}]),
            "messages[0].tool_calls[0].type",
        ),
        (json!([{"role": "user", "content": "x", "tool_calls": [{}]}]), "messages[0].tool_calls"),
        (json!([{"role": "assistant", "reasoning_content": ["x"]}]), "messages[0].reasoning_content"),
    ] {
        assert_eq!(error(chat(messages)).0, param);
    }
}

#[test]
fn messages_have_the_calls_and_the_reasoning_that_an_answer_had() {
    let of = |messages: Value| match chat_with(json!({"messages": messages})).unwrap().prompt {
        Prompt::Chat(messages) => messages,
        _ => unreachable!(),
    };
    let call = |arguments: Value| {
        json!([{"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}},
        ]}])
    };
    for (arguments, expected) in [
        (json!("{\"a\": 1, \"b\": [true]}"), "{\"a\":1,\"b\":[true]}"),
        (json!({"a": 1}), "{\"a\":1}"),
        (json!("{\"a\": \"\\u003c|end|>\"}"), "{\"a\":\"<|end|>\"}"),
        (json!("no JSON"), "no JSON"),
        (json!(null), "{}"),
    ] {
        let call_of =
            |arguments: &str| ToolCall { id: "c1".into(), name: "f".into(), arguments: arguments.into() };
        assert_eq!(of(call(arguments))[0].tool_calls, [call_of(expected)]);
    }
    for name in ["reasoning_content", "reasoning", "thinking"] {
        let message = json!([{"role": "assistant", "content": "a", name: "r"}]);
        let expected = ChatMessage { reasoning: Some("r".into()), ..ChatMessage::new("assistant", "a") };
        assert_eq!(of(message), [expected]);
    }
    let result = json!([{"role": "tool", "tool_call_id": "c1", "content": "4"}]);
    assert_eq!(
        of(result),
        [ChatMessage { tool_call_id: Some("c1".into()), ..ChatMessage::new("tool", "4") }]
    );
}

#[test]
fn tools_are_functions_that_an_answer_may_call() {
    let function = json!([{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}]);
    let tools = |more: Value| chat_with(more).map(|request| request.tools);
    let text = r#"[{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}]"#;
    assert_eq!(tools(json!({"tools": function})).unwrap().as_deref(), Some(text));
    assert_eq!(tools(json!({"tools": function, "tool_choice": "auto"})).unwrap().as_deref(), Some(text));
    assert_eq!(tools(json!({"tools": function, "tool_choice": "none"})).unwrap(), None);
    assert_eq!(tools(json!({"tools": []})).unwrap(), None);
    for (request, param) in [
        (json!({"tools": function, "tool_choice": "required"}), "tool_choice"),
        (json!({"tools": function, "tool_choice": {"type": "function"}}), "tool_choice"),
        (json!({"tools": [{}]}), "tools[0].type"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function.name"),
        (json!({"tools": "f"}), "tools"),
    ] {
        assert_eq!(error(chat_with(request.clone())).0, param, "{request}");
    }
    assert_eq!(error(completion_with(json!({"tools": function}))).0, "tools");
}
