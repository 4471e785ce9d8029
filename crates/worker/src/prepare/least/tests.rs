#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{super::samples, *};

fn with(mut tokenizer: Value, field: &str, value: Value) -> Value {
    tokenizer[field] = value;
    tokenizer
}

/// Every way in which a tokenizer covers a text with its tokens.
fn tokenizers() -> Vec<(&'static str, Value)> {
    let bytes = samples::byte_level;
    let pieces = samples::sentencepiece;
    let split =
        json!({"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": false});
    let byte_stage = bytes()["pre_tokenizer"].clone();
    let mut prefix_space = bytes();
    prefix_space["pre_tokenizer"]["add_prefix_space"] = true.into();
    let mut strips = bytes();
    strips["added_tokens"][3]["rstrip"] = true.into();
    strips["added_tokens"][2]["lstrip"] = true.into();
    let mut without_bytes = bytes();
    without_bytes["model"]["vocab"].as_object_mut().unwrap().retain(|token, _| token != "u" && token != "¤");
    let mut unknown = without_bytes.clone();
    unknown["model"]["unk_token"] = "a".into();
    let mut fused = unknown.clone();
    fused["model"]["fuse_unk"] = true.into();
    let mut no_fallback = pieces();
    no_fallback["model"]["byte_fallback"] = false.into();
    let mut normalized = pieces();
    normalized["added_tokens"][0]["normalized"] = true.into();
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    let chain = |parts: Value| json!({"type": "Sequence", "normalizers": parts});
    vec![
        ("bytes", bytes()),
        ("NFC", with(bytes(), "normalizer", json!({"type": "NFC"}))),
        ("NFKC", with(bytes(), "normalizer", json!({"type": "NFKC"}))),
        (
            "NFD, accents off",
            with(bytes(), "normalizer", chain(json!([{"type": "NFD"}, {"type": "StripAccents"}]))),
        ),
        (
            "strip",
            with(bytes(), "normalizer", json!({"type": "Strip", "strip_left": true, "strip_right": true})),
        ),
        (
            "byte normalizer",
            with(with(bytes(), "normalizer", json!({"type": "ByteLevel"})), "pre_tokenizer", Value::Null),
        ),
        (
            "split",
            with(bytes(), "pre_tokenizer", json!({"type": "Sequence", "pretokenizers": [split, byte_stage]})),
        ),
        ("prefix space", prefix_space),
        ("added tokens that strip", strips),
        ("bytes that vanish", without_bytes),
        ("unknown bytes", unknown),
        ("fused unknown bytes", fused),
        ("pieces", pieces()),
        ("pieces without bytes", no_fallback),
        ("normalized added token", normalized),
        ("metaspace", with(with(pieces(), "normalizer", Value::Null), "pre_tokenizer", metaspace)),
        ("words", samples::words()),
        ("lower case words", with(samples::words(), "normalizer", json!({"type": "Lowercase"}))),
    ]
}

#[test]
fn what_can_not_fit_is_seen_without_tokenizing() {
    let texts = [
        "a ".repeat(50_000),
        "the ".repeat(25_000),
        "x".repeat(100_000),
        " ".repeat(100_000) + &"a b".repeat(30_000),
        "<|im_end|>".repeat(10_000),
    ];
    for (name, tokenizer) in tokenizers() {
        let tokenizer = samples::load(&tokenizer);
        let least = LeastTokens::new(tokenizer.tokenizer()).unwrap_or_else(|| panic!("{name}: no bound"));
        for text in &texts {
            let word = !text.contains(char::is_whitespace);
            let vanishes = ["pieces without bytes", "words", "lower case words"].contains(&name) && word;
            assert!(vanishes || least.exceeding(text, 500).is_some(), "{name}: {:?}", &text[..20]);
        }
    }
}

#[test]
fn counting_stops_with_the_context() {
    let tokenizer = samples::load(&samples::byte_level());
    let least = LeastTokens::new(tokenizer.tokenizer()).unwrap();
    let text = "a ".repeat(4 << 20);
    assert_eq!(least.exceeding(&text, 2047), Some(2048));
    assert_eq!(least.exceeding("the the", 2), None);
    assert_eq!(least.exceeding("the the", 1), Some(2));
}

#[test]
fn a_token_for_any_length_of_text_has_no_bound() {
    let unbounded = [
        with(samples::words(), "pre_tokenizer", Value::Null),
        with(
            with(samples::words(), "pre_tokenizer", Value::Null),
            "normalizer",
            json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        ),
        with(
            samples::byte_level(),
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"String": "x"}, "behavior": "Removed", "invert": false}),
        ),
        with(
            samples::byte_level(),
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "x+"}, "content": ""}),
        ),
        with(samples::byte_level(), "normalizer", json!({"type": "Nmt"})),
    ];
    for tokenizer in unbounded {
        assert!(LeastTokens::new(samples::load(&tokenizer).tokenizer()).is_none(), "{tokenizer}");
    }
}

proptest! {
    /// Nothing that fits is ever refused.
    #[test]
    fn no_text_has_fewer_tokens(
        parts in prop::collection::vec(prop::sample::select(vec![
            "a", "ab", "abab", "the", " ", "  ", "        ", "\n", "\n\n", "u", "¤", "é", "e\u{301}", "\u{301}", "한", "\u{1112}\u{1161}\u{11ab}",
            "▁", "▁▁▁▁", "\u{212a}", "ﬁ", "<s>", "</s>", " <s> ", "<|im_start|>", "<|im_end|>", "<|im", "the the", "\u{a0}", "日本", "🙂", "\u{fdfa}",
        ]), 0..60),
    ) {
        let text = parts.concat();
        for (name, tokenizer) in TOKENIZERS.iter() {
            let (tokenizer, least) = tokenizer;
            // One without a token for what it does not know refuses the text.
            let Ok(tokens) = tokenizer.encode(&text, false) else { continue };
            for max in [tokens.len(), tokens.len() + 3] {
                prop_assert_eq!(least.exceeding(&text, max), None, "{}: {} tokens", name, tokens.len());
            }
        }
    }
}

type Known = (super::super::PromptTokenizer, LeastTokens);

static TOKENIZERS: std::sync::LazyLock<Vec<(&str, Known)>> = std::sync::LazyLock::new(|| {
    let known = |tokenizer: Value| {
        let tokenizer = samples::load(&tokenizer);
        let least = LeastTokens::new(tokenizer.tokenizer()).unwrap();
        (tokenizer, least)
    };
    tokenizers().into_iter().map(|(name, tokenizer)| (name, known(tokenizer))).collect()
});
