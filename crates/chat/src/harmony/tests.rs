#![allow(clippy::unwrap_used)]

use super::*;

/// Events of a whole output.
fn events(text: &str) -> Vec<ParserEvent> {
    let mut parser = Box::new(Harmony::default());
    let mut events = Vec::new();
    parser.push(text.to_owned(), &mut events);
    parser.finish(&mut events);
    events
}

fn text(text: &str) -> ParserEvent {
    ParserEvent::Text(text.to_owned())
}

fn reasoning(text: &str) -> ParserEvent {
    ParserEvent::Reasoning(text.to_owned())
}

fn call(index: u32, name: &str, json: &str) -> Vec<ParserEvent> {
    let (name, json) = (name.to_owned(), json.to_owned());
    let arguments = (!json.is_empty()).then_some(ParserEvent::ToolCallArguments { index, json });
    [ParserEvent::ToolCallStart { index, name }]
        .into_iter()
        .chain(arguments)
        .chain([ParserEvent::ToolCallEnd { index }])
        .collect()
}

#[test]
fn channels_tell_reasoning_from_the_answer() {
    let found = events(
        "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>",
    );
    assert_eq!(found, [reasoning("They greet."), text("Hello!")]);
    // What ends a stream may be in no output.
    let found =
        events("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b");
    assert_eq!(found, [reasoning("a"), text("b")]);
    // What is said before a call is for the user.
    assert_eq!(events("<|channel|>commentary<|message|>I look it up.<|end|>"), [text("I look it up.")]);
    // A prompt that ends earlier.
    assert_eq!(events("<|start|>assistant<|channel|>final<|message|>b<|return|>"), [text("b")]);
}

#[test]
fn calls_name_their_tool_in_the_header() {
    let json = "{\"city\":\"Oslo\"}";
    for header in [
        "<|channel|>commentary to=functions.weather <|constrain|>json",
        "<|channel|>commentary to=functions.weather<|constrain|>json",
        "<|channel|>analysis to=functions.weather code",
        " to=functions.weather<|channel|>commentary json",
        "<|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json",
    ] {
        for end in ["<|call|>", "<|end|>", ""] {
            assert_eq!(
                events(&format!("{header}<|message|>{json}{end}")),
                call(0, "weather", json),
                "{header}"
            );
        }
    }
    let python = events("<|channel|>analysis to=python code<|message|>print(1)<|call|>");
    assert_eq!(python, call(0, "python", "print(1)"));
    assert_eq!(events("<|channel|>commentary to=user<|message|>a<|end|>"), [text("a")]);
    assert_eq!(events("<|channel|>commentary to=functions.f<|message|><|call|>"), call(0, "f", ""));
}

#[test]
fn several_calls_follow_each_other() {
    let next = |name| {
        format!("<|start|>assistant<|channel|>commentary to=functions.{name} json<|message|>{{}}<|call|>")
    };
    let found = events(&format!("<|channel|>analysis<|message|>r<|end|>{}{}", next("f"), next("g")));
    let expected = [vec![reasoning("r")], call(0, "f", "{}"), call(1, "g", "{}")].concat();
    assert_eq!(found, expected);
}

#[test]
fn an_output_that_ends_inside_a_call_ends_the_call() {
    let found = events("<|channel|>commentary to=functions.f<|message|>{\"a\": \"<|e");
    assert_eq!(joined(found), call(0, "f", "{\"a\": \"<|e"));
}

/// Deltas that belong together as one.
fn joined(events: Vec<ParserEvent>) -> Vec<ParserEvent> {
    let mut joined: Vec<ParserEvent> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(ParserEvent::Text(text)), ParserEvent::Text(more))
            | (
                Some(ParserEvent::ToolCallArguments { json: text, .. }),
                ParserEvent::ToolCallArguments { json: more, .. },
            ) => text.push_str(&more),
            (_, event) => joined.push(event),
        }
    }
    joined
}

#[test]
fn what_only_looks_like_a_message_is_text() {
    let long = format!("<|channel|>{}<|message|>b", "x".repeat(MAX_HEADER + 1));
    for (output, expected) in [
        ("Hello", "Hello"),
        ("a < b <| c", "a < b <| c"),
        ("<|channel|>analysis", "<|channel|>analysis"),
        ("<|start|>assistant", "<|start|>assistant"),
        ("<|channel|>analysis<|end|>b", "<|channel|>analysisb"),
        (" to=", " to="),
        ("a<|message|>b", "a<|message|>b"),
        (&long, &long),
    ] {
        assert_eq!(joined(events(output)), [text(expected)], "{output}");
    }
}

/// A stream shows each body as it comes, but for what may be a marker.
#[test]
fn little_is_held_back() {
    let mut parser = Harmony::default();
    let mut pushed = |piece: &str| {
        let mut events = Vec::new();
        parser.push(piece.to_owned(), &mut events);
        events
    };
    assert_eq!(pushed("<|channel|>final"), []);
    assert_eq!(pushed("<|message|>a"), [text("a")]);
    assert_eq!(pushed("b<"), [text("b")]);
    assert_eq!(pushed("|en"), []);
    assert_eq!(pushed("ough"), [text("<|enough")]);
}
