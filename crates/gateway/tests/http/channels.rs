//! What a model marks in its output: reasoning, the answer, calls of tools.

use protocol::message::{ChatMessage, Delta, FinishReason, OutputPart, Prompt, StreamEventKind, ToolCall};
use serde_json::{Value, json};

use crate::support::*;

fn with_parts(text: &str, parts: Vec<OutputPart>) -> StreamEventKind {
    StreamEventKind::Delta(Delta { tokens: vec![1].into(), text: text.into(), parts, ..Delta::default() })
}

/// Reasoning, an answer and two calls, as a worker sends them.
fn of_channels() -> Vec<StreamEventKind> {
    let arguments = |index, json: &str| OutputPart::CallArguments { index, json: json.into() };
    let call = |index, name: &str| OutputPart::CallStart { index, name: name.into() };
    vec![
        with_parts("", vec![OutputPart::Reasoning("Let me ".into())]),
        with_parts("", vec![OutputPart::Reasoning("see.".into()), OutputPart::Text("I ".into())]),
        with_parts("ask.", vec![call(0, "f")]),
        with_parts("", vec![arguments(0, "{\"a\":")]),
        with_parts("", vec![arguments(0, "1}"), call(1, "g"), arguments(1, "{}")]),
    ]
}

#[tokio::test]
async fn what_a_model_marks_is_told_apart() {
    let (env, mut worker) = TestEnv::ready("").await;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let begun = env.begin(CHAT, &chat(json!({ "tools": tools })));
    let generate = worker.generate().await;
    assert_eq!(generate.tools.as_deref(), Some(&*tools.to_string()));
    worker.admit(generate.id).await;
    worker.events(generate.id, of_channels()).await;
    worker.events(generate.id, vec![finished(FinishReason::Stop)]).await;
    let answer = Reply::read(soon("an answer", begun).await.unwrap()).await.json();
    let mut choice = answer["choices"][0].clone();
    let calls = choice["message"]["tool_calls"].as_array_mut().unwrap();
    let ids: Vec<Value> = calls.iter_mut().map(|call| call["id"].take()).collect();
    assert!(ids[0].as_str().unwrap().starts_with("call_") && ids[0] != ids[1], "{ids:?}");
    let call = |name: &str, arguments: &str| json!({"id": null, "type": "function", "function": {"name": name, "arguments": arguments}});
    let message = json!({
        "role": "assistant", "content": "I ask.", "reasoning_content": "Let me see.", "refusal": null,
        "tool_calls": [call("f", "{\"a\":1}"), call("g", "{}")],
    });
    let expected = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "tool_calls"});
    assert_eq!(choice, expected);
}

#[tokio::test]
async fn a_stream_tells_apart_what_a_model_marks() {
    let (env, mut worker) = TestEnv::ready("").await;
    for (reason, name) in [(FinishReason::Stop, "tool_calls"), (FinishReason::Length, "length")] {
        let begun = env.begin(CHAT, &chat(json!({"stream": true})));
        let generate = worker.generate().await;
        worker.admit(generate.id).await;
        worker.events(generate.id, of_channels()).await;
        worker.events(generate.id, vec![finished(reason)]).await;
        let reply = Reply::read(soon("an answer", begun).await.unwrap()).await;
        let events = reply.text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let mut deltas: Vec<Value> = events.map(|event| event["choices"][0].clone()).collect();
        let last = deltas.pop().unwrap();
        assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!(name)));
        let deltas: Vec<Value> = deltas.into_iter().map(|mut choice| choice["delta"].take()).collect();
        let id = deltas[5]["tool_calls"][0]["id"].clone();
        let arguments = |index: u32, json: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": json}}]});
        let call = |index: u32, name: &str, id: &Value| {
            json!({"tool_calls": [
                {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}},
            ]})
        };
        assert!(id.as_str().unwrap().starts_with("call_"), "{id}");
        let second = deltas[8]["tool_calls"][0]["id"].clone();
        assert!(second.is_string() && second != id);
        let expected = [
            json!({"role": "assistant", "content": ""}),
            json!({"reasoning_content": "Let me "}),
            json!({"reasoning_content": "see."}),
            json!({"content": "I "}),
            json!({"content": "ask."}),
            call(0, "f", &id),
            arguments(0, "{\"a\":"),
            arguments(0, "1}"),
            call(1, "g", &second),
            arguments(1, "{}"),
        ];
        assert_eq!(deltas, expected);
    }
}

/// A client that sends an answer back gets its parts into the prompt.
#[tokio::test]
async fn an_answer_that_is_sent_back_has_its_parts() {
    let (env, mut worker) = TestEnv::ready("").await;
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "4"},
    ]);
    let begun = env.begin(CHAT, &json!({"model": "tiny", "messages": messages}));
    let generate = worker.generate().await;
    let call = ToolCall { id: "call_1".into(), name: "f".into(), arguments: "{\"a\":1}".into() };
    let expected = [
        ChatMessage::new("user", "hi"),
        ChatMessage {
            reasoning: Some("Hm.".into()),
            tool_calls: vec![call],
            ..ChatMessage::new("assistant", "")
        },
        ChatMessage { tool_call_id: Some("call_1".into()), ..ChatMessage::new("tool", "4") },
    ];
    assert_eq!(generate.prompt, Prompt::Chat(expected.into()));
    worker.admit(generate.id).await;
    worker.events(generate.id, vec![chunk("ok"), finished(FinishReason::Stop)]).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
}
