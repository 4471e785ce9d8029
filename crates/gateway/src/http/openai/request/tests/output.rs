//! Constraints of the output, under every name.

use super::*;
use crate::serve::{Constraint, ConstraintKind};

fn output(more: Value) -> Option<(ConstraintKind, String)> {
    let of = |request: GenerateRequest| request.output.map(|Constraint { kind, param }| (kind, param));
    let chat = of(chat_with(more.clone()).unwrap());
    assert_eq!(chat, of(completion_with(more).unwrap()), "both kinds of completion have it");
    chat
}

fn schema() -> (Value, ConstraintKind) {
    // In the order of the client, which is that of the output.
    let schema = json!({"type": "object", "properties": {"b": {"type": "null"}, "a": {}}});
    let text = r#"{"type":"object","properties":{"b":{"type":"null"},"a":{}}}"#;
    (schema, ConstraintKind::JsonSchema(text.into()))
}

#[test]
fn every_name_of_a_constraint_is_read() {
    let (schema, kind) = schema();
    let as_text = |param: &str| (param.to_owned(), kind.clone());
    let regex = ConstraintKind::Regex("a+".into());
    let choice = ConstraintKind::Choice(vec!["x".into(), "y".into()]);
    let grammar = ConstraintKind::Grammar("start: \"a\"".into());
    for (body, (param, kind)) in [
        (
            json!({"response_format": {"type": "json_object"}}),
            ("response_format".into(), ConstraintKind::JsonObject),
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d",
                "strict": true, "schema": schema}}}),
            as_text("response_format.json_schema.schema"),
        ),
        (
            json!({"response_format": {"type": "json_object", "schema": schema}}),
            as_text("response_format.schema"),
        ),
        (json!({"guided_json": schema}), as_text("guided_json")),
        (json!({"guided_json": schema.to_string()}), as_text("guided_json")),
        (json!({"json_schema": schema}), as_text("json_schema")),
        (json!({"structured_outputs": {"json": schema}}), as_text("structured_outputs.json")),
        (json!({"guided_regex": "a+"}), ("guided_regex".into(), regex.clone())),
        (json!({"regex": "a+"}), ("regex".into(), regex.clone())),
        (json!({"structured_outputs": {"regex": "a+"}}), ("structured_outputs.regex".into(), regex)),
        (json!({"choice": ["x", "y"]}), ("choice".into(), choice.clone())),
        (json!({"guided_choice": ["x", "y"]}), ("guided_choice".into(), choice.clone())),
        (json!({"structured_outputs": {"choice": ["x", "y"]}}), ("structured_outputs.choice".into(), choice)),
        (json!({"guided_grammar": "start: \"a\""}), ("guided_grammar".into(), grammar.clone())),
        (json!({"grammar": "start: \"a\""}), ("grammar".into(), grammar.clone())),
        (
            json!({"structured_outputs": {"grammar": "start: \"a\"", "regex": null, "disable_fallback": true}}),
            ("structured_outputs.grammar".into(), grammar),
        ),
        (
            json!({"structured_outputs": {"json_object": true}}),
            ("structured_outputs.json_object".into(), ConstraintKind::JsonObject),
        ),
    ] {
        assert_eq!(output(body.clone()), Some((kind, param)), "{body}");
    }
}

#[test]
fn what_asks_for_no_constraint_is_none() {
    for body in [
        json!({}),
        json!({"response_format": {"type": "text"}, "guided_decoding_backend": "xgrammar"}),
        json!({"response_format": null, "guided_json": null, "structured_outputs": {}}),
        json!({"guided_json": "", "guided_regex": "", "guided_grammar": "", "grammar": "", "json_schema": ""}),
        json!({"structured_outputs": {"json_object": false, "structural_tag": null, "whitespace_pattern": null}}),
    ] {
        assert_eq!(output(body.clone()), None, "{body}");
    }
}

#[test]
fn two_constraints_at_once_are_refused() {
    for (body, param, first) in [
        (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice", "guided_regex"),
        (json!({"grammar": "a", "guided_json": {}}), "grammar", "guided_json"),
        (
            json!({"response_format": {"type": "json_object"}, "json_schema": {}}),
            "json_schema",
            "response_format",
        ),
        (
            json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}),
            "structured_outputs.choice",
            "structured_outputs.regex",
        ),
        (
            json!({"guided_regex": "a", "structured_outputs": {"regex": "a"}}),
            "structured_outputs.regex",
            "guided_regex",
        ),
    ] {
        let (named, message) = error(chat_with(body.clone()));
        assert_eq!(named, param, "{body}");
        assert!(message.contains(&format!("`{first}` constrains")), "{message}");
    }
    chat_with(json!({"response_format": {"type": "text"}, "guided_regex": "a"})).unwrap();
}

#[test]
fn values_that_are_no_constraint_are_refused_by_name() {
    let long = "a".repeat(Constraint::MAX_BYTES + 1);
    let many = vec!["a"; Constraint::MAX_CHOICES + 1];
    for (body, param) in [
        (json!({"response_format": "json"}), "response_format"),
        (json!({"response_format": {}}), "response_format.type"),
        (json!({"response_format": {"type": 1}}), "response_format.type"),
        (json!({"response_format": {"type": "regex"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema.schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": ""}}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"response_format": {"type": "json_schema", "schema": {}}}), "response_format"),
        (json!({"response_format": {"type": "text", "schema": {}}}), "response_format"),
        (json!({"guided_json": ["object"]}), "guided_json"),
        (json!({"guided_json": true}), "guided_json"),
        (json!({"guided_json": long}), "guided_json"),
        (json!({"json_schema": 1}), "json_schema"),
        (json!({"guided_regex": ["a"]}), "guided_regex"),
        (json!({"guided_regex": long}), "guided_regex"),
        (json!({"guided_choice": "a"}), "guided_choice"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_choice": ["a", ""]}), "guided_choice"),
        (json!({"guided_choice": ["a", 1]}), "guided_choice[1]"),
        (json!({"guided_choice": many}), "guided_choice"),
        (json!({"guided_grammar": {}}), "guided_grammar"),
        (json!({"grammar": long}), "grammar"),
        (json!({"structured_outputs": []}), "structured_outputs"),
        (json!({"structured_outputs": {"structural_tag": {"a": 1}}}), "structured_outputs.structural_tag"),
        (json!({"structured_outputs": {"whitespace_pattern": " "}}), "structured_outputs.whitespace_pattern"),
        (
            json!({"structured_outputs": {"disable_any_whitespace": true}}),
            "structured_outputs.disable_any_whitespace",
        ),
        (json!({"guided_whitespace_pattern": " "}), "guided_whitespace_pattern"),
        (json!({"structural_tag": {"a": 1}}), "structural_tag"),
        (json!({"ebnf": "a"}), "ebnf"),
    ] {
        for result in [chat_with(body.clone()), completion_with(body.clone())] {
            assert_eq!(
                error(result).0,
                param,
                "{param} of {}",
                &body.to_string()[..body.to_string().len().min(200)]
            );
        }
    }
}

#[test]
fn a_member_that_nobody_knows_is_refused() {
    for body in [
        json!({"response_format": {"type": "json_object", "strikt": true}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strikt": true}}}),
        json!({"structured_outputs": {"regexp": "a"}}),
    ] {
        let (param, message) = error(chat_with(body));
        assert!(param.starts_with("response_format") || param.starts_with("structured_outputs"), "{param}");
        assert!(message.contains("strikt") || message.contains("regexp"), "{message}");
    }
}
