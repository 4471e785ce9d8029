#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::{
    engine::EosTokens,
    model::Fewer,
    prepare::{PromptTokenizer, Settings},
};

/// Words, between `[CLS]` and `[SEP]`; its file asks for truncation and padding.
fn tokenizer() -> PromptTokenizer {
    let mut vocab = serde_json::Map::new();
    for (id, word) in ["[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d"].into_iter().enumerate() {
        vocab.insert(word.to_owned(), id.into());
    }
    let special = |text: &str, id: u32| json!({"id": text, "ids": [id], "tokens": [text]});
    let added = |text: &str, id: u32| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let file = json!({
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[CLS]"},
        "added_tokens": [added("[CLS]", 0), added("[SEP]", 1), added("[UNK]", 2)],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special("[CLS]", 0), "[SEP]": special("[SEP]", 1)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": Value::Object(vocab)},
    });
    PromptTokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
}

fn preparer(embedding: Option<Dimensions>) -> Preparer {
    let settings = Settings {
        template: None,
        eos_tokens: EosTokens::default(),
        context_length: 6,
        kv_tokens: 6,
        vocab_size: 7,
        special_tokens_in_content: false,
        embedding,
    };
    Preparer::new(tokenizer(), settings)
}

fn encoder() -> Preparer {
    preparer(Some(Dimensions { all: 8, fewer: Fewer::Listed(vec![4]) }))
}

fn ask(inputs: Vec<Prompt>, truncate: Truncation) -> EmbedInput {
    EmbedInput { inputs, first: 16, truncate, dimensions: None }
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

/// The field that is to blame, and what is said.
#[track_caller]
fn refusal(preparer: &Preparer, asked: &EmbedInput) -> (String, String) {
    let failure = preparer.embed(asked).unwrap_err();
    (failure.param.unwrap(), failure.message)
}

#[test]
fn texts_get_special_tokens_and_are_neither_cut_nor_padded() {
    let asked = ask(vec![text("A b  c d"), Prompt::Tokens(vec![3]), text("")], Truncation::Refuse);
    let prepared = encoder().embed(&asked).unwrap();
    assert_eq!(prepared.inputs, [vec![0, 3, 4, 5, 6, 1], vec![3], vec![0, 1]]);
    assert_eq!(prepared.dimensions, None);
}

#[test]
fn what_is_too_long_is_refused_unless_it_may_be_cut() {
    let (long, tokens) = (text("a b c d a"), Prompt::Tokens(vec![3; 7]));
    for input in [long.clone(), tokens.clone()] {
        let asked = ask(vec![text("a"), input], Truncation::Refuse);
        let failure = encoder().embed(&asked).unwrap_err();
        assert_eq!(failure.kind, FailureKind::ContextLengthExceeded);
        assert_eq!(failure.param.as_deref(), Some("input"));
        assert!(failure.message.contains("at most 6 tokens, and input 17 has 7"), "{}", failure.message);
    }
    let cut = |truncate| encoder().embed(&ask(vec![long.clone(), tokens.clone()], truncate)).unwrap().inputs;
    assert_eq!(cut(Truncation::ToModel), [vec![0, 3, 4, 5, 6, 1], vec![3; 6]]);
    assert_eq!(cut(Truncation::To(4)), [vec![0, 3, 4, 1], vec![3; 4]]);
    let short = ask(vec![text("a")], Truncation::To(5));
    assert_eq!(encoder().embed(&short).unwrap().inputs, [vec![0, 3, 1]]);
    for wrong in [0, 2, 7, u32::MAX] {
        let (param, _) = refusal(&encoder(), &ask(vec![text("a")], Truncation::To(wrong)));
        assert_eq!(param, "truncate_prompt_tokens", "{wrong}");
    }
}

#[test]
fn a_text_that_can_not_fit_is_refused_before_it_is_tokenized() {
    let asked = ask(vec![text(&"a ".repeat(1 << 20))], Truncation::Refuse);
    let failure = encoder().embed(&asked).unwrap_err();
    assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::ContextLengthExceeded, Some("input")));
}

#[test]
fn inputs_that_the_model_could_not_take_are_refused_by_their_number() {
    for (input, what) in [
        (Prompt::Tokens(vec![]), "input 16 has no tokens"),
        (Prompt::Tokens(vec![3, 7]), "input 16 has token 7"),
    ] {
        let (param, message) = refusal(&encoder(), &ask(vec![input], Truncation::Refuse));
        assert_eq!(param, "input");
        assert!(message.starts_with(what), "{message}");
    }
    let chat = Prompt::Chat(Vec::new());
    assert_eq!(refusal(&encoder(), &ask(vec![chat], Truncation::Refuse)).0, "input");
}

#[test]
fn only_lengths_that_the_model_offers_are_taken() {
    let asked = |dimensions| EmbedInput { dimensions, ..ask(vec![text("a")], Truncation::Refuse) };
    for offered in [None, Some(4), Some(8)] {
        assert_eq!(encoder().embed(&asked(offered)).unwrap().dimensions, offered);
    }
    let (param, message) = refusal(&encoder(), &asked(Some(5)));
    assert_eq!(param, "dimensions");
    assert!(message.contains("have 8 numbers, or as many of them as one of [4]"), "{message}");
}

#[test]
fn a_model_that_generates_embeds_nothing() {
    let (param, message) = refusal(&preparer(None), &ask(vec![text("a")], Truncation::Refuse));
    assert_eq!(param, "model");
    assert!(message.contains("generates"), "{message}");
}
