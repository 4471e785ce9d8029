#![allow(clippy::unwrap_used)]

use protocol::message::ModelInfo;
use serde_json::{Value, json};
use test_support::worker::model_info;

use super::*;
use crate::serve::{
    ChatMessage, Prompt,
    operation::{PieceForm, Pieces, TokenizeInput},
};

fn read<E: Endpoint>(body: Value) -> Result<Asked<E::Form>, ApiError> {
    E::read(body.to_string().as_bytes())
}

/// The field that is to blame.
#[track_caller]
fn param<E: Endpoint>(body: Value) -> (Option<&'static str>, String) {
    let report = read::<E>(body).map(|asked| asked.kind).unwrap_err().report();
    (report.code, report.param.unwrap())
}

fn write<E: Endpoint>(form: E::Form, answer: Answer) -> Value {
    let model = ModelInfo { context_length: 64, ..model_info("m") };
    serde_json::from_slice(&E::write(form, Answered { answer, model }).unwrap()).unwrap()
}

fn messages() -> Value {
    json!([{"role": "user", "content": "hi"}])
}

fn chat() -> Vec<ChatMessage> {
    vec![ChatMessage::new("user", "hi")]
}

fn pieces() -> Pieces {
    let mut pieces = Pieces::default();
    pieces.push(7, b" a");
    pieces.push(8, b"\xc3");
    pieces
}

#[test]
fn a_prompt_is_tokenized_as_vllm_does() {
    let asked = read::<Tokenize>(json!({"model": "m", "prompt": "hi", "user": "u"})).unwrap();
    let input = TokenizeInput::new(Prompt::Text("hi".into()));
    assert_eq!((asked.model.as_deref(), asked.form), (Some("m"), tokenize::Form::Vllm));
    assert_eq!(asked.kind, OperationKind::Tokenize(input.clone()));
    let body = json!({"model": "m", "prompt": "hi", "add_special_tokens": false, "return_token_strs": true});
    let input = TokenizeInput { add_special_tokens: false, ..input };
    let expected = OperationKind::Pieces { input, form: PieceForm::Vocabulary };
    assert_eq!(read::<Tokenize>(body).unwrap().kind, expected);
}

#[test]
fn a_chat_is_tokenized_as_vllm_does() {
    for (more, add_generation_prompt) in [
        (json!({}), true),
        (json!({"add_generation_prompt": false, "add_special_tokens": false}), false),
        (json!({"continue_final_message": false}), true),
    ] {
        let mut body = json!({"model": "m", "messages": messages()});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let input =
            TokenizeInput { prompt: Prompt::Chat(chat()), add_special_tokens: false, add_generation_prompt };
        assert_eq!(read::<Tokenize>(body).unwrap().kind, OperationKind::Tokenize(input));
    }
}

#[test]
fn a_content_is_tokenized_as_llama_cpp_does() {
    let asked = read::<Tokenize>(json!({"content": "hi", "parse_special": true})).unwrap();
    let input = TokenizeInput { add_special_tokens: false, ..TokenizeInput::new(Prompt::Text("hi".into())) };
    assert_eq!((asked.model, asked.form), (None, tokenize::Form::LlamaCpp));
    assert_eq!(asked.kind, OperationKind::Tokenize(input.clone()));
    let body = json!({"model": "m", "content": "hi", "add_special": true, "with_pieces": true});
    let asked = read::<Tokenize>(body).unwrap();
    let input = TokenizeInput { add_special_tokens: true, ..input };
    assert_eq!(asked.model.as_deref(), Some("m"));
    assert_eq!(asked.kind, OperationKind::Pieces { input, form: PieceForm::Bytes });
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let invalid = |name: &str| (Some("invalid_value"), name.to_owned());
    let unsupported = |name: &str| (Some("unsupported_parameter"), name.to_owned());
    let unknown = |name: &str| (Some("unknown_parameter"), name.to_owned());
    for (body, expected) in [
        (json!({"model": "m"}), invalid("prompt")),
        (json!({"model": "m", "prompt": "a", "content": "a"}), invalid("prompt")),
        (json!({"model": "m", "prompt": "a", "messages": messages()}), invalid("prompt")),
        (json!({"prompt": "a"}), invalid("model")),
        (json!({"model": "", "prompt": "a"}), invalid("model")),
        (json!({"model": "m", "prompt": ["a"]}), invalid("prompt")),
        (json!({"model": "m", "prompt": "a", "add_special": true}), invalid("add_special")),
        (
            json!({"model": "m", "prompt": "a", "add_generation_prompt": true}),
            invalid("add_generation_prompt"),
        ),
        (json!({"content": "a", "return_token_strs": true}), invalid("return_token_strs")),
        (json!({"model": "m", "messages": messages(), "with_pieces": true}), invalid("with_pieces")),
        (json!({"model": "m", "messages": []}), invalid("messages")),
        (
            json!({"model": "m", "messages": messages(), "add_special_tokens": true}),
            unsupported("add_special_tokens"),
        ),
        (
            json!({"model": "m", "messages": messages(), "continue_final_message": true}),
            unsupported("continue_final_message"),
        ),
        (
            json!({"model": "m", "messages": messages(), "tools": [{"type": "function"}]}),
            unsupported("tools"),
        ),
        (json!({"content": "a", "parse_special": false}), unsupported("parse_special")),
        (json!({"content": "a", "temperature": 1}), unknown("temperature")),
        (json!({"model": "m", "promt": "a"}), unknown("promt")),
    ] {
        assert_eq!(param::<Tokenize>(body.clone()), expected, "{body}");
    }
    for (body, expected) in [
        (json!({"model": "m"}), invalid("tokens")),
        (json!({"tokens": "a"}), invalid("tokens")),
        (json!({"tokens": [1, -1]}), invalid("tokens")),
        (json!({"tokens": [1], "x": 1}), unknown("x")),
    ] {
        assert_eq!(param::<Detokenize>(body.clone()), expected, "{body}");
    }
    assert_eq!(param::<ApplyTemplate>(json!({"model": "m"})), invalid("messages"));
    assert_eq!(param::<CheckDraft>(json!({"draft_model": "d"})), invalid("model"));
    assert_eq!(param::<CheckDraft>(json!({"model": "m", "draft_model": ""})), invalid("draft_model"));
}

#[test]
fn tokens_templates_and_draft_models_are_asked_for_as_typed() {
    let detokenize = |tokens, skip_special_tokens| OperationKind::Detokenize { tokens, skip_special_tokens };
    let asked = read::<Detokenize>(json!({"model": "m", "tokens": [1, 2.0]})).unwrap();
    assert_eq!((asked.kind, asked.form), (detokenize(vec![1, 2], false), detokenize::Form::Prompt));
    let asked = read::<Detokenize>(json!({"tokens": [], "skip_special_tokens": true})).unwrap();
    assert_eq!((asked.kind, asked.form), (detokenize(vec![], true), detokenize::Form::Content));
    for add_generation_prompt in [true, false] {
        let body = json!({"messages": messages(), "add_generation_prompt": add_generation_prompt});
        let expected = OperationKind::Render { messages: chat(), add_generation_prompt };
        assert_eq!(read::<ApplyTemplate>(body).unwrap().kind, expected);
    }
    let asked = read::<CheckDraft>(json!({"model": "m", "draft_model": "d"})).unwrap();
    assert_eq!(asked.kind, OperationKind::CheckDraft { draft: "d".into() });
}

#[test]
fn answers_have_the_form_of_their_request() {
    let vllm = |answer| write::<Tokenize>(tokenize::Form::Vllm, answer);
    let llama_cpp = |answer| write::<Tokenize>(tokenize::Form::LlamaCpp, answer);
    assert_eq!(
        vllm(Answer::Tokens(vec![7, 8])),
        json!({"count": 2, "max_model_len": 64, "tokens": [7, 8], "token_strs": null})
    );
    assert_eq!(
        vllm(Answer::Pieces(pieces())),
        json!({"count": 2, "max_model_len": 64, "tokens": [7, 8], "token_strs": [" a", "\u{fffd}"]})
    );
    assert_eq!(llama_cpp(Answer::Tokens(vec![7])), json!({"tokens": [7]}));
    let expected = json!({"tokens": [{"id": 7, "piece": " a"}, {"id": 8, "piece": [0xc3]}]});
    assert_eq!(llama_cpp(Answer::Pieces(pieces())), expected);
    let text = || Answer::Text("t".into());
    assert_eq!(write::<Detokenize>(detokenize::Form::Prompt, text()), json!({"prompt": "t"}));
    assert_eq!(write::<Detokenize>(detokenize::Form::Content, text()), json!({"content": "t"}));
    assert_eq!(write::<ApplyTemplate>((), text()), json!({"prompt": "t"}));
    let names = read::<CheckDraft>(json!({"model": "m", "draft_model": "d"})).unwrap().form;
    let reason = Some("no".into());
    let answer = Answer::DraftCheck { compatible: false, reason, vocab_size: 9, draft_vocab_size: 8 };
    let expected = json!({"model": "m", "draft_model": "d", "compatible": false, "reason": "no",
        "vocab_size": 9, "draft_vocab_size": 8});
    assert_eq!(write::<CheckDraft>(names, answer), expected);
}
