//! When an output ends, and with what: end tokens, stop strings and a least number of tokens.

use std::sync::LazyLock;

use protocol::message::{Constraint, ConstraintKind, FinishReason, Generate, Prompt};

use super::*;
use crate::prepare::{Preparer, Settings, samples};

/// Bytes, some words, and an end token.
static MODEL: LazyLock<(Preparer, u32, u32)> = LazyLock::new(|| {
    let tokenizer = samples::load(&samples::byte_level());
    let eos = id("</s>");
    let vocab_size = tokenizer.tokenizer().get_vocab_size(true) as u32;
    let settings = Settings {
        template: None,
        eos_tokens: EosTokens::new(vec![eos]),
        context_length: 100,
        kv_tokens: usize::MAX,
        vocab_size,
        special_tokens_in_content: false,
        embedding: None,
    };
    (Preparer::new(tokenizer, settings), vocab_size, eos)
});

fn id(token: &str) -> u32 {
    samples::load(&samples::byte_level()).tokenizer().token_to_id(token).unwrap()
}

fn ask() -> Generate {
    Generate { max_tokens: Some(9), ..Generate::new(RequestId(1), Prompt::Tokens(vec![5]), 1000) }
}

/// The text, the number of tokens and the end of what a model says that would like to say `tokens`, and then the last of
/// them for ever.
fn say(tokens: &[&str], ask: Generate) -> (String, usize, FinishReason) {
    let ids: Vec<u32> = tokens.iter().map(|token| id(token)).collect();
    // What it can't say leaves it where it was: at the next token.
    let model = FakeModel::next(MODEL.1, move |all| ids[(all.len() - 1).min(ids.len() - 1)]);
    let mut world = World::new(model);
    let request = world.requests.begin(ask.id, ask.credit).unwrap();
    let sequence = MODEL.0.prepare(ask, request).unwrap();
    world.messages.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    assert_eq!(world.settle(), Turn::Idle);
    world.assert_empty();
    let stream = world.stream(1);
    let reason = stream.reason().unwrap();
    (stream.text, stream.tokens.len(), reason)
}

#[test]
fn a_stop_token_ends_the_output_and_is_shown_on_request() {
    let tokens = ["a", "the", "end", "x"];
    let stop = |token: &str| Generate { stop_tokens: vec![7, id(token)], ..ask() };
    assert_eq!(say(&tokens, stop("end")), ("athe".into(), 3, FinishReason::Stop));
    let shown = Generate { include_stop: true, ..stop("end") };
    assert_eq!(say(&tokens, shown), ("atheend".into(), 3, FinishReason::Stop));
    // The model's own end tokens are ignored, but not those of the request.
    let tokens = ["a", "</s>", "end", "x"];
    let ignoring = Generate { ignore_eos: true, ..stop("end") };
    assert_eq!(say(&tokens, ignoring), ("a".into(), 3, FinishReason::Stop));
    let special = Generate { include_stop: true, ..stop("</s>") };
    assert_eq!(say(&tokens, special), ("a".into(), 2, FinishReason::Stop), "its text is not shown anywhere");
}

#[test]
fn a_stop_string_is_shown_on_request() {
    let stop = |include_stop| Generate { stop: vec!["he".into(), "heend".into()], include_stop, ..ask() };
    let tokens = ["a", "the", "end", "x"];
    assert_eq!(say(&tokens, stop(false)), ("at".into(), 2, FinishReason::Stop));
    assert_eq!(say(&tokens, stop(true)), ("athe".into(), 2, FinishReason::Stop));
}

#[test]
fn nothing_ends_an_output_that_has_to_be_longer() {
    let least = |min_tokens| Generate { min_tokens, ..ask() };
    assert_eq!(say(&["</s>"], least(0)).1, 1);
    let (_, tokens, reason) = say(&["</s>"], least(4));
    assert_eq!((tokens, reason), (5, FinishReason::Stop), "four others, and the end");
    assert_eq!(say(&["end"], Generate { stop_tokens: vec![id("end")], ..least(4) }).1, 5);
    assert_eq!(say(&["</s>"], least(9)).2, FinishReason::Length);

    let stops = |min_tokens| Generate { stop: vec!["the".into()], ..least(min_tokens) };
    let tokens = ["the", "a", "the", "a", "the", "x"];
    assert_eq!(say(&tokens, stops(0)), (String::new(), 1, FinishReason::Stop));
    assert_eq!(say(&tokens, stops(2)), ("thea".into(), 3, FinishReason::Stop));
    assert_eq!(say(&tokens, stops(3)), ("theathea".into(), 5, FinishReason::Stop));
}

#[test]
fn a_constraint_that_is_complete_ends_an_output_that_should_be_longer() {
    let regex = |text: &str| Some(Constraint { kind: ConstraintKind::Regex(text.into()), param: "p".into() });
    let least = |text: &str| Generate { min_tokens: 4, output: regex(text), ..ask() };
    assert_eq!(say(&["</s>"], least("aa")).0, "aa");
    let (text, tokens, reason) = say(&["</s>"], least("a{2,20}"));
    assert!(text.len() >= 4 && tokens == 5 && reason == FinishReason::Stop, "{text} in {tokens} tokens");
}
