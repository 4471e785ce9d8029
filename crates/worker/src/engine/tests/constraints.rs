//! Outputs under constraints: they are what was asked for, whatever the model would like to say, and they change nothing
//! for the others.

use std::{collections::BTreeSet, sync::LazyLock};

use protocol::message::{Constraint, ConstraintKind, FailureKind, FinishReason, Generate, Prompt};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::*;
use crate::prepare::{Preparer, Settings, samples};

/// Tokens of prompt and output together.
const CONTEXT: usize = 4000;

const LIMITS: Limits = Limits { kv_tokens: 3 * CONTEXT, ..super::LIMITS };

/// Bytes, some words, and an end token.
static MODEL: LazyLock<(Preparer, u32, u32)> = LazyLock::new(|| {
    let tokenizer = samples::load(&samples::byte_level());
    let eos = tokenizer.tokenizer().token_to_id("</s>").unwrap();
    let vocab_size = tokenizer.tokenizer().get_vocab_size(true) as u32;
    let settings = Settings {
        template: None,
        eos_tokens: EosTokens::new(vec![eos]),
        context_length: CONTEXT,
        kv_tokens: usize::MAX,
        vocab_size,
        special_tokens_in_content: false,
        embedding: None,
    };
    (Preparer::new(tokenizer, settings), vocab_size, eos)
});

/// Schemas, and what they mean.
type Schema = (Value, fn(&Value) -> bool);

fn schemas() -> [Schema; 11] {
    [
        (json!({"type": "boolean"}), Value::is_boolean),
        (json!({"type": "null"}), Value::is_null),
        (json!({"type": "integer", "minimum": -20, "maximum": 300}), |it| {
            it.as_i64().is_some_and(|n| (-20..=300).contains(&n))
        }),
        (json!({"type": "string", "maxLength": 4}), |it| {
            it.as_str().is_some_and(|text| text.chars().count() <= 4)
        }),
        (json!({"type": "string", "pattern": "^[0-9]{2}-(ab|é)+x$", "maxLength": 9}), |it| {
            it.as_str().is_some_and(|text| text.as_bytes()[2] == b'-' && text.ends_with('x'))
        }),
        (json!({"enum": ["a", 1, null, {"b": [true]}]}), |it| {
            [json!("a"), json!(1), Value::Null, json!({"b": [true]})].contains(it)
        }),
        (json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}), |it| {
            it.as_array().is_some_and(|it| (2..=3).contains(&it.len()) && it.iter().all(Value::is_boolean))
        }),
        (
            json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9},
                "ok": {"type": "boolean"}}, "required": ["n", "ok"], "additionalProperties": false}),
            |it| it.as_object().is_some_and(|o| o.len() == 2) && it["n"].is_u64() && it["ok"].is_boolean(),
        ),
        (json!({"anyOf": [{"type": "array", "maxItems": 0}, {"const": {"x": "y"}}]}), |it| {
            *it == json!([]) || *it == json!({"x": "y"})
        }),
        (
            json!({"$defs": {"leaf": {"type": "object", "properties": {"v": {"type": "null"}}, "required": ["v"],
                "additionalProperties": false}}, "type": "array", "items": {"$ref": "#/$defs/leaf"}, "minItems": 1,
                "maxItems": 2}),
            |it| it.as_array().is_some_and(|it| it.iter().all(|leaf| *leaf == json!({"v": null}))),
        ),
        (json!({"type": "number", "multipleOf": 0.5, "minimum": 1, "maximum": 9}), |it| {
            it.as_f64().is_some_and(|n| (n * 2.0).fract() == 0.0 && (1.0..=9.0).contains(&n))
        }),
    ]
}

fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::default() }
}

fn ask(id: u64, kind: Option<ConstraintKind>, seed: u64) -> Generate {
    let output = kind.map(|kind| Constraint { kind, param: "field".into() });
    Generate {
        sampling: warm(seed),
        output,
        ..Generate::new(RequestId(id), Prompt::Tokens(vec![5]), 100_000)
    }
}

fn regex(text: &str) -> Option<ConstraintKind> {
    Some(ConstraintKind::Regex(text.into()))
}

/// What the clients see of requests that run together over `model`.
fn run_over(model: FakeModel, asks: &[Generate]) -> Vec<Stream> {
    let mut world = World::with_limits(model, LIMITS);
    for ask in asks {
        let request = world.requests.begin(ask.id, ask.credit).unwrap();
        let sequence = MODEL.0.prepare(ask.clone(), request).unwrap();
        world.messages.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    }
    assert_eq!(world.settle(), Turn::Idle);
    world.assert_empty();
    asks.iter().map(|ask| world.reports.stream(ask.id)).collect()
}

fn run(ask: Generate) -> Stream {
    run_over(FakeModel::random(MODEL.1), &[ask]).remove(0)
}

#[test]
fn every_output_is_what_the_schema_says_also_when_it_is_cut_and_resumed() {
    for (schema, is_right) in schemas() {
        for seed in 0..6 {
            let kind = Some(ConstraintKind::JsonSchema(schema.to_string()));
            let whole = run(ask(1, kind.clone(), seed));
            assert_eq!(whole.reason(), Some(FinishReason::Stop), "{schema}: {}", whole.text);
            let value: Value = serde_json::from_str(&whole.text).unwrap_or_else(|_| panic!("{}", whole.text));
            assert!(is_right(&value), "{value} for {schema}");
            let length = whole.tokens.len();
            for cut in
                BTreeSet::from([1, length / 2, length - 1]).into_iter().filter(|&cut| cut > 0 && cut < length)
            {
                let part = run(Generate { max_tokens: Some(cut as u32), ..ask(1, kind.clone(), seed) });
                assert_eq!(part.tokens, whole.tokens[..cut]);
                assert_eq!(part.reason(), Some(FinishReason::Length), "{schema}");
                let rest = run(Generate { resume: part.tokens, ..ask(1, kind.clone(), seed) });
                assert_eq!((rest.tokens, rest.end), (whole.tokens[cut..].to_vec(), whole.end.clone()));
            }
        }
    }
}

#[test]
fn every_kind_of_constraint_is_kept() {
    // Numbers may be larger than a `Value` can have.
    let object = |text: &str| text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok();
    let choices = ["the end", "a", "ab"];
    let sums = "start: sum\nsum: NUMBER | sum \"+\" NUMBER\nNUMBER: /[0-9]/\n";
    type Check = Box<dyn Fn(&str) -> bool>;
    let kinds: [(ConstraintKind, Check); 4] = [
        (ConstraintKind::JsonObject, Box::new(object)),
        (ConstraintKind::Regex("(ab|é){3}".into()), Box::new(|text| text.replace("ab", "é") == "ééé")),
        (
            ConstraintKind::Choice(choices.map(str::to_owned).to_vec()),
            Box::new(move |text| choices.contains(&text)),
        ),
        (
            ConstraintKind::Grammar(sums.into()),
            Box::new(|text| text.split('+').all(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())),
        ),
    ];
    for (kind, is_right) in kinds {
        for seed in 0..8 {
            let greedy = Sampling { frequency_penalty: 1.0, ..Sampling::default() };
            let filtered = Sampling { top_k: 3, top_p: 0.9, min_p: 0.01, ..warm(seed) };
            for sampling in [warm(seed), greedy, filtered] {
                let ask = Generate { sampling, max_tokens: Some(1500), ..ask(1, Some(kind.clone()), seed) };
                let stream = run(ask);
                // Objects of a random model may take long.
                if stream.reason() == Some(FinishReason::Stop) {
                    assert!(is_right(&stream.text), "{:?} for {kind:?}", stream.text);
                } else {
                    assert_eq!(
                        (stream.reason(), &kind),
                        (Some(FinishReason::Length), &ConstraintKind::JsonObject)
                    );
                    assert!(stream.text.trim_start().starts_with('{'), "{:?}", stream.text);
                }
            }
        }
    }
}

#[test]
fn others_in_the_batch_get_what_they_would_alone() {
    let kinds =
        [None, regex("[a-z]{40}"), None, Some(ConstraintKind::Choice(vec!["the".into()])), regex("(ab)*")];
    let asks = kinds.into_iter().zip(0..);
    let asks: Vec<_> =
        asks.map(|(kind, id)| Generate { max_tokens: Some(60), ..ask(id, kind, id) }).collect();
    let together = run_over(FakeModel::random(MODEL.1), &asks);
    for (stream, ask) in together.into_iter().zip(asks) {
        assert_eq!(stream, run(ask));
    }
}

#[test]
fn end_tokens_that_are_ignored_end_only_what_is_complete() {
    let (_, vocab_size, eos) = *MODEL;
    // It would like to end at once.
    let run = |kind, ignore_eos| {
        let model = FakeModel::next(vocab_size, move |_| eos);
        let ask =
            Generate { ignore_eos, max_tokens: Some(9), sampling: Sampling::default(), ..ask(1, kind, 1) };
        let stream = run_over(model, &[ask]).remove(0);
        (stream.text.len(), stream.reason().unwrap())
    };
    assert_eq!(run(regex("a{2,20}"), false), (2, FinishReason::Stop));
    assert_eq!(run(regex("a{2,20}"), true), (9, FinishReason::Length));
    assert_eq!(run(regex("a{2,5}"), true), (5, FinishReason::Stop));
    assert_eq!(run(regex("a{2,9}"), true), (9, FinishReason::Stop), "complete with its last token");
}

#[test]
fn a_stop_string_ends_the_output_before_it_is_complete() {
    let stop = vec!["aaa".to_owned()];
    let stream = run(Generate { stop, ..ask(1, regex("xa{9}"), 1) });
    assert_eq!((stream.text.as_str(), stream.reason()), ("x", Some(FinishReason::Stop)));
}

#[test]
fn what_no_mask_can_help_fails_instead_of_being_shown() {
    let (preparer, vocab_size, _) = &*MODEL;
    let model = FakeModel::new(*vocab_size, |tokens| {
        let logit = if tokens.len() < 3 { 0.0 } else { f32::NAN };
        vec![logit; MODEL.1 as usize]
    });
    let streams =
        run_over(model, &[ask(1, regex("a{5}"), 1), Generate { max_tokens: Some(5), ..ask(2, None, 2) }]);
    assert_eq!((streams[0].text.as_str(), streams[0].reason()), ("aa", None));
    assert!(streams[0].failure().starts_with("the output's constraint failed: "), "{}", streams[0].failure());
    assert_eq!(streams[1].reason(), Some(FinishReason::Length));

    // Tokens that another worker can't have generated under the constraint.
    let resume = vec![*vocab_size - 1];
    let request = Arc::new(RequestHandle::new(1));
    let failure = preparer.prepare(Generate { resume, ..ask(1, regex("a{5}"), 1) }, request).err().unwrap();
    assert_eq!((failure.kind, failure.param), (FailureKind::Internal, None));
    assert!(failure.message.contains("the output's constraint failed: "), "{}", failure.message);
}

#[test]
fn a_sequence_that_gave_its_memory_back_goes_on_where_it_was() {
    let asks: Vec<_> = (0..4).map(|id| ask(id, regex("[a-z]{50}"), id)).collect();
    let mut world = World::with_limits(FakeModel::random(MODEL.1), Limits { kv_tokens: 110, ..LIMITS });
    for ask in &asks {
        let request = world.requests.begin(ask.id, ask.credit).unwrap();
        let sequence = MODEL.0.prepare(ask.clone(), request).unwrap();
        world.messages.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    }
    assert_eq!(world.settle(), Turn::Idle);
    assert!(
        world.steps().iter().skip(1).any(|rows| rows.iter().any(|&row| row > 1)),
        "nothing was computed again"
    );
    for ask in asks {
        assert_eq!(world.reports.stream(ask.id), run(ask));
    }
}
