#![allow(clippy::unwrap_used)]

mod suite;

use protocol::message::{Constraint as Asked, ConstraintKind};
use serde_json::{Map, Value, json};

use super::{super::samples, *};
use crate::{engine::EosTokens, prepare::PromptTokenizer};

/// A model of which a test chooses each token.
struct Model {
    tokenizer: PromptTokenizer,
    size: u32,
    eos_tokens: EosTokens,
    constraints: Constraints,
}

impl Model {
    fn new(tokenizer: &Value) -> Self {
        let tokenizer = samples::load(tokenizer);
        let eos = ["</s>", "<|im_end|>"].map(|text| tokenizer.tokenizer().token_to_id(text).unwrap());
        let size = tokenizer.tokenizer().get_vocab_size(true) as u32;
        Self {
            tokenizer,
            size,
            eos_tokens: EosTokens::new(eos.to_vec()),
            constraints: Constraints::default(),
        }
    }

    fn compile(&self, kind: ConstraintKind) -> Result<Constraint, Failure> {
        let asked = Asked { kind, param: "field".into() };
        let (tokenizer, size, eos_tokens) = (self.tokenizer.tokenizer(), self.size, &self.eos_tokens);
        self.constraints.compile(&asked, None, false, Vocabulary { tokenizer, size, eos_tokens })
    }

    fn failure(&self, kind: ConstraintKind) -> Failure {
        let failure = self.compile(kind).err().unwrap();
        assert_eq!(failure.param.as_deref(), Some("field"));
        failure
    }

    /// How many were compiled.
    fn compiled(&self) -> u64 {
        self.constraints.compiled.load(Ordering::Relaxed)
    }

    /// The texts of all tokens that may follow.
    fn allowed(&self, constraint: &mut Constraint) -> Vec<String> {
        let mask = constraint.mask().unwrap();
        let tokens = (0..self.size).filter(|&token| mask.allows(token));
        tokens.map(|token| self.tokenizer.tokenizer().id_to_token(token).unwrap()).collect()
    }

    /// Whether the output is complete behind `token`.
    fn accept(&self, constraint: &mut Constraint, token: &str) -> bool {
        constraint.accept(self.tokenizer.tokenizer().token_to_id(token).unwrap()).unwrap()
    }
}

fn regex(text: &str) -> ConstraintKind {
    ConstraintKind::Regex(text.into())
}

fn schema(schema: &Value) -> ConstraintKind {
    ConstraintKind::JsonSchema(schema.to_string())
}

fn grammar(text: &str) -> ConstraintKind {
    ConstraintKind::Grammar(text.into())
}

fn choice(texts: &[&str]) -> ConstraintKind {
    ConstraintKind::Choice(texts.iter().map(ToString::to_string).collect())
}

#[test]
fn tokens_are_what_they_add_to_the_text() {
    // "abab" and "ab" are tokens as well, "Ġthe" is " the", and "Ã©" is "é", of which each half is a token, too.
    for (tokenizer, the, bytes) in
        [(samples::byte_level(), "Ġthe", None), (samples::sentencepiece(), "▁the", Some("<0x61>"))]
    {
        let model = Model::new(&tokenizer);
        let mut constraint = model.compile(regex("ab the")).unwrap();
        let expected: Vec<_> = bytes.into_iter().chain(["a", "ab"]).collect();
        assert_eq!(model.allowed(&mut constraint), expected);
        assert!(!model.accept(&mut constraint, "ab"));
        assert!(model.allowed(&mut constraint).contains(&the.to_owned()));
        assert!(model.accept(&mut constraint, the), "nothing can follow");
    }
    let model = Model::new(&samples::byte_level());
    let mut constraint = model.compile(regex("é")).unwrap();
    assert_eq!(model.allowed(&mut constraint), ["Ã", "Ã©"]);
    let model = Model::new(&samples::sentencepiece());
    let mut constraint = model.compile(regex("é")).unwrap();
    assert_eq!(model.allowed(&mut constraint), ["<0xC3>"]);
}

#[test]
fn an_output_ends_where_it_may_and_nowhere_else() {
    let model = Model::new(&samples::byte_level());
    let mut constraint = model.compile(regex("a{2,3}")).unwrap();
    for _ in 0..2 {
        assert_eq!(model.allowed(&mut constraint), ["a"]);
        assert!(!model.accept(&mut constraint, "a"));
    }
    assert_eq!(model.allowed(&mut constraint), ["a", "</s>", "<|im_end|>"]);
    assert!(model.accept(&mut constraint, "<|im_end|>"));
}

#[test]
fn special_tokens_are_no_text() {
    let model = Model::new(&samples::byte_level());
    let mut constraint = model.compile(regex("(?s:.)*")).unwrap();
    let allowed = model.allowed(&mut constraint);
    for token in ["<s>", "<|im_start|>", "[INST]", "<|user|>"] {
        assert!(!allowed.contains(&token.to_owned()), "{token}");
    }
    // This one is shown to the client.
    assert!(allowed.contains(&"<think>".to_owned()));
    // Half a character is no text, and may be the beginning of some.
    assert!(allowed.contains(&"Ã".to_owned()) && !allowed.contains(&"©".to_owned()));
}

#[test]
fn masks_are_the_same_ahead_and_at_the_time() {
    let model = Model::new(&samples::byte_level());
    let [mut ahead, mut late] = [(); 2].map(|()| model.compile(ConstraintKind::JsonObject).unwrap());
    for token in ["{", "\"", "the", "\"", ":", "[", "]", "}"] {
        ahead.look_ahead();
        ahead.look_ahead();
        assert_eq!(model.allowed(&mut ahead), model.allowed(&mut late));
        assert_eq!(model.accept(&mut ahead, token), token == "}");
        assert_eq!(model.accept(&mut late, token), token == "}");
    }
}

#[test]
fn what_may_not_stand_there_is_an_error_from_then_on() {
    let model = Model::new(&samples::byte_level());
    let id = |token: &str| model.tokenizer.tokenizer().token_to_id(token).unwrap();
    for token in ["b", "</s>", "<s>"] {
        let mut constraint = model.compile(regex("a+")).unwrap();
        assert!(constraint.accept(id(token)).is_err(), "{token}");
        assert!(constraint.mask().is_err() && constraint.accept(id("a")).is_err());
    }
    // A grammar may name a token that ends outputs, but nothing can follow it.
    let mut constraint = model.compile(grammar("start: \"a\" </s> \"b\"")).unwrap();
    assert!(!model.accept(&mut constraint, "a"));
    assert!(matches!(constraint.accept(id("</s>")), Err(crate::constraint::ConstraintError::TooEarly(_))));
}

#[test]
fn choices_are_taken_literally() {
    let texts = ["a\"b\\", "a|b", "(a)", "a\nb", "é%json", "the"];
    let model = Model::new(&samples::byte_level());
    for text in texts {
        let mut constraint = model.compile(choice(&texts)).unwrap();
        let tokens = model.tokenizer.tokenizer().encode(text, false).unwrap();
        let (last, first) = tokens.get_ids().split_last().unwrap();
        for &token in first {
            assert!(!constraint.accept(token).unwrap(), "{text}");
        }
        assert!(constraint.accept(*last).unwrap(), "{text}");
    }
}

#[test]
fn what_can_not_be_compiled_is_refused_with_the_reason() {
    let model = Model::new(&samples::byte_level());
    for (kind, reason) in [
        (regex("a("), "unclosed group"),
        (regex("(?=a)a"), "look-around"),
        (regex("a\\"), "backslash"),
        (regex(&format!("{}a{}", "(".repeat(5000), ")".repeat(5000))), "nest"),
        (ConstraintKind::JsonSchema("{".into()), "not JSON"),
        (ConstraintKind::JsonSchema("[]".into()), "object"),
        (schema(&json!({"type": "thing"})), "thing"),
        (schema(&json!({"not": {}})), "not"),
        (schema(&json!({"$ref": "#/$defs/none"})), "none"),
        (schema(&json!({"$ref": "https://example.com/schema"})), "example.com"),
        (schema(&json!({"type": "integer", "multipleOf": 99_999_989})), "multipleOf"),
        (choice(&[]), "nothing to choose"),
        (grammar("start: other"), "other"),
        (grammar("root ::= \"a\""), "GBNF"),
        (grammar("start: <nothing>"), "nothing"),
        (grammar("start: %json {\"type\": \"object\"}"), "schemas inside"),
        (grammar(&format!("start: {}\"a\"{}", "(".repeat(1000), ")".repeat(1000))), "nested"),
    ] {
        let failure = model.failure(kind.clone());
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{kind:?}");
        let message = &failure.message;
        assert!(message.starts_with("`field` can't be used: ") && message.contains(reason), "{message}");
        assert!(!message.contains("backtrace") && !message.contains("non-verbose"), "{message}");
        assert!(message.len() < 2200, "{} bytes", message.len());
    }
}

#[test]
fn the_longest_chain_of_references_does_no_harm() {
    let model = Model::new(&samples::byte_level());
    let links = Asked::MAX_BYTES / "\"0000\":{\"$ref\":\"#/$defs/0000\"},".len() - 2;
    let mut defs: Map<String, Value> =
        (0..links).map(|n| (format!("{n:04}"), json!({"$ref": format!("#/$defs/{:04}", n + 1)}))).collect();
    defs.insert(format!("{links:04}"), json!({"type": "boolean"}));
    let kind = schema(&json!({"$defs": defs, "$ref": "#/$defs/0000"}));
    let bytes = Asked { kind: kind.clone(), param: String::new() }.bytes();
    assert!((Asked::MAX_BYTES - 100..=Asked::MAX_BYTES).contains(&bytes), "{bytes}");
    // Whether the library can follow it is its own business.
    drop(model.compile(kind));
}

#[test]
fn what_takes_too_long_is_given_up() {
    let mut model = Model::new(&samples::byte_level());
    drop(model.compile(ConstraintKind::JsonObject).unwrap());
    model.constraints.patience = Duration::from_millis(1);
    let failure = model.failure(schema(&json!({"type": "integer", "multipleOf": 99_991})));
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert!(failure.message.contains("longer than 1ms"), "{}", failure.message);
    let running: Vec<_> = (0..MAX_RUNNING).map(|_| Arc::clone(&model.constraints.running)).collect();
    assert_eq!(model.failure(regex("a")).kind, FailureKind::Overloaded);
    drop(model.compile(ConstraintKind::JsonObject).expect("it need not be compiled"));
    drop(running);
}

#[test]
fn what_took_too_long_is_there_for_those_who_ask_again() {
    let mut model = Model::new(&samples::byte_level());
    drop(model.compile(ConstraintKind::JsonObject).unwrap());
    model.constraints.patience = Duration::ZERO;
    let asked = schema(&json!({"type": "integer", "multipleOf": 9_973}));
    assert!(model.failure(asked.clone()).message.contains("longer than 0ns"));
    while Arc::strong_count(&model.constraints.running) > 1 {
        thread::yield_now();
    }
    drop(model.compile(asked).unwrap());
    assert_eq!(model.compiled(), 2);
}

#[test]
fn what_is_asked_for_again_is_not_compiled_again_and_each_output_goes_its_own_way() {
    let model = Model::new(&samples::byte_level());
    let asked =
        schema(&json!({"type": "object", "properties": {"the": {"type": "integer"}}, "required": ["the"]}));
    let [mut first, mut second] = [(); 2].map(|()| model.compile(asked.clone()).unwrap());
    assert_eq!(model.compiled(), 1);
    for token in ["{", "\"", "the", "\"", ":"] {
        assert_eq!(model.allowed(&mut first), model.allowed(&mut second));
        assert!(!model.accept(&mut first, token) && !model.accept(&mut second, token));
    }
    // What one has learnt since then does not show in others.
    assert!(!model.accept(&mut first, "1"));
    assert!(model.allowed(&mut first).contains(&"}".to_owned()));
    assert!(!model.allowed(&mut second).contains(&"}".to_owned()));
    let mut third = model.compile(asked).unwrap();
    assert!(model.allowed(&mut third).contains(&"{".to_owned()));
    assert_eq!(model.compiled(), 1);
    model.compile(ConstraintKind::JsonObject).unwrap();
    assert_eq!(model.compiled(), 2);
}

#[test]
fn what_can_not_be_compiled_is_not_tried_again_and_each_request_s_own_field_is_named() {
    let model = Model::new(&samples::byte_level());
    let (tokenizer, size, eos_tokens) = (model.tokenizer.tokenizer(), model.size, &model.eos_tokens);
    let [first, second] = ["guided_regex", "regex"].map(|param| {
        let asked = Asked { kind: regex("a("), param: param.into() };
        let vocabulary = Vocabulary { tokenizer, size, eos_tokens };
        model.constraints.compile(&asked, None, false, vocabulary).err().unwrap()
    });
    assert_eq!((first.kind, second.kind), (FailureKind::InvalidRequest, FailureKind::InvalidRequest));
    assert!(first.message.starts_with("`guided_regex` can't be used: "), "{}", first.message);
    assert_eq!(second.message, first.message.replace("guided_regex", "regex"));
    assert_eq!(second.param.as_deref(), Some("regex"));
    assert_eq!(model.compiled(), 1);
}

#[test]
fn whether_end_tokens_are_ignored_is_each_request_s_own_affair() {
    let model = Model::new(&samples::byte_level());
    let (tokenizer, size, eos_tokens) = (model.tokenizer.tokenizer(), model.size, &model.eos_tokens);
    for (ignore_eos, ends) in [(false, true), (true, false), (false, true)] {
        let asked = Asked { kind: regex("a*"), param: "field".into() };
        let vocabulary = Vocabulary { tokenizer, size, eos_tokens };
        let mut constraint = model.constraints.compile(&asked, None, ignore_eos, vocabulary).unwrap();
        assert_eq!(model.allowed(&mut constraint).contains(&"</s>".to_owned()), ends);
    }
    assert_eq!(model.compiled(), 1);
}

#[test]
fn a_model_without_end_tokens_can_be_constrained_too() {
    let mut model = Model::new(&samples::byte_level());
    model.eos_tokens = EosTokens::new(vec![u32::MAX]);
    let mut constraint = model.compile(regex("a")).unwrap();
    assert_eq!(model.allowed(&mut constraint), ["a"]);
    assert!(model.accept(&mut constraint, "a"));
}

#[test]
fn rows_and_tokens_need_not_be_as_many() {
    for vocab_size in [200, 1000] {
        let mut model = Model::new(&samples::byte_level());
        model.size = vocab_size;
        let mut constraint = model.compile(regex("[a-c]+")).unwrap();
        let mask = constraint.mask().unwrap();
        let allowed: Vec<_> = (0..2000).filter(|&token| mask.allows(token)).collect();
        assert!(
            allowed.len() >= 3 && allowed.iter().all(|&token| token < vocab_size.min(300)),
            "{allowed:?}"
        );
    }
}
