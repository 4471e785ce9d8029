#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn read(fields: &Value) -> Result<Asked, ApiError> {
    let mut body = json!({"model": "m", "input": "hi"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Asked::read(body.to_string().as_bytes())
}

fn prompts(input: &Value) -> Vec<Prompt> {
    let parts = read(&json!({ "input": input })).unwrap().inputs;
    parts.into_iter().flat_map(|part| part.inputs).collect()
}

/// The field that is to blame.
#[track_caller]
fn param(fields: &Value) -> String {
    read(fields).unwrap_err().report().param.unwrap()
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

#[test]
fn an_input_is_a_text_or_token_ids_or_a_list_of_either() {
    assert_eq!(prompts(&json!("a")), [text("a")]);
    assert_eq!(prompts(&json!(["a", "b"])), [text("a"), text("b")]);
    assert_eq!(prompts(&json!([1, 2.0])), [Prompt::Tokens(vec![1, 2])]);
    assert_eq!(prompts(&json!([[1], [2, 3]])), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    for wrong in [json!([]), json!([1, "a"]), json!([-1]), json!([1.5])] {
        assert_eq!(param(&json!({ "input": wrong })), "input", "{wrong}");
    }
    for wrong in [json!(3), json!({}), json!([null]), json!([[["a"]]]), json!([[-1]])] {
        assert!(read(&json!({ "input": wrong })).is_err(), "{wrong}");
    }
    assert_eq!(param(&json!({ "input": null })), "input");
}

#[test]
fn there_is_a_limit_of_inputs() {
    let inputs = |count: usize| json!({ "input": vec!["a"; count] });
    assert_eq!(read(&inputs(2048)).unwrap().inputs.len(), 2048 / MAX_EMBED_INPUTS);
    let report = read(&inputs(2049)).unwrap_err().report();
    assert_eq!(report.param.as_deref(), Some("input"));
    assert!(report.message.contains("2049") && report.message.contains("2048"), "{}", report.message);
}

#[test]
fn many_inputs_are_several_operations_that_know_their_place() {
    let inputs: Vec<String> = (0..MAX_EMBED_INPUTS + 2).map(|number| number.to_string()).collect();
    let asked = read(&json!({ "input": inputs, "dimensions": 8, "truncate_prompt_tokens": 5 })).unwrap();
    let [one, other] = &asked.inputs[..] else { panic!("{asked:?}") };
    assert_eq!((one.first, one.inputs.len()), (0, MAX_EMBED_INPUTS));
    assert_eq!((other.first, &other.inputs[0]), (16, &text("16")));
    for part in [one, other] {
        assert_eq!((part.truncate, part.dimensions), (Truncation::To(5), Some(8)));
    }
}

#[test]
fn fields_are_checked_and_others_are_refused() {
    let plain = read(&json!({"user": "someone", "dimensions": null})).unwrap();
    assert_eq!((plain.model.as_str(), plain.format), ("m", Format::Float));
    assert_eq!((plain.inputs[0].truncate, plain.inputs[0].dimensions), (Truncation::Refuse, None));
    assert_eq!(read(&json!({"encoding_format": "base64"})).unwrap().format, Format::Base64);
    let all = read(&json!({"truncate_prompt_tokens": -1})).unwrap();
    assert_eq!(all.inputs[0].truncate, Truncation::ToModel);
    for (fields, name) in [
        (json!({"encoding_format": "int8"}), "encoding_format"),
        (json!({"dimensions": 0}), "dimensions"),
        (json!({"dimensions": 1_u64 << 32}), "dimensions"),
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
        (json!({"truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
        (json!({"model": ""}), "model"),
        (json!({"temperature": 1}), "temperature"),
    ] {
        assert_eq!(param(&fields), name);
    }
}

#[test]
fn vectors_are_numbers_or_base64_and_keep_their_order() {
    let mut one = Embeddings::default();
    one.push(3, &[0.5, -1.0]);
    one.push(4, &[0.1, 0.0]);
    let mut other = Embeddings::default();
    other.push(5, &[1.0, 2.0]);
    let written =
        |format| String::from_utf8(write(&[one.clone(), other.clone()], "m", format).unwrap()).unwrap();
    let item = |index: usize, embedding: &str| {
        format!(r#"{{"object":"embedding","index":{index},"embedding":{embedding}}}"#)
    };
    let data = [item(0, "[0.5,-1.0]"), item(1, "[0.1,0.0]"), item(2, "[1.0,2.0]")].join(",");
    let rest = r#""model":"m","usage":{"prompt_tokens":12,"total_tokens":12}}"#;
    assert_eq!(written(Format::Float), format!(r#"{{"object":"list","data":[{data}],{rest}"#));
    // 00 00 00 3f, 00 00 80 bf
    assert!(written(Format::Base64).contains(&item(0, r#""AAAAPwAAgL8=""#)));
}
